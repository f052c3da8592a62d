use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use bondgate_mmdb::{Database, Metadata};

use super::*;
use crate::policy::Policy;

const BASE: &str = "[runtime]\nstate_dir = \"/tmp/nowhere\"\n";

/// A file that is watched, on a clock that jumps.
struct Rig {
    dir: tempfile::TempDir,
    watch: ConfigWatch,
    geo: GeoWatch,
    now: Instant,
}

impl Rig {
    fn start(text: &str) -> Self {
        Self::with(text, &[], &[])
    }

    fn with(text: &str, env: &[(&str, &str)], set: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b.toml");
        fs::write(&file, format!("{BASE}{text}")).unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            flags: set.iter().map(|assignment| ("--set", (*assignment).to_owned())).collect(),
            cores: 64,
        };
        let (now, stamp) = (Instant::now(), Stamp::of(&file));
        let running = config::load(&sources).unwrap().config;
        let geo = GeoWatch::start(&running.geo, Arc::default(), now).unwrap();
        let watch = ConfigWatch::start((sources, stamp), running, false, now);
        Self { dir, watch, geo, now }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("b.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), format!("{BASE}{text}")).unwrap();
    }

    /// As editors do.
    fn replace(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{BASE}{text}")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn look(&mut self) -> Option<Change> {
        let change = self.watch.look(self.now, false, &self.geo);
        if let Some(change) = &change {
            self.watch.is_in_force();
            assert_eq!(change.config, self.watch.running);
        }
        change
    }

    /// Two looks, between which a file that changes no more has settled.
    fn settle(&mut self) -> Option<Change> {
        assert!(self.look().is_none(), "a file that has just changed is left alone");
        self.now += SETTLED;
        self.look()
    }

    fn status(&self) -> ConfigStatus {
        self.watch.state().read()
    }
}

fn allows(config: &Config, ip: &str) -> bool {
    Policy::compile(config).admission.networks.allows(ip.parse::<IpAddr>().unwrap())
}

#[test]
fn what_is_live_is_taken_up_and_the_rest_is_named() {
    let mut rig = Rig::start("[srtla]\nallow = [\"192.0.2.0/24\"]\n");
    assert!(rig.settle().is_none() && !rig.watch.is_waiting(), "nothing has changed");
    let text = "[srtla]\nallow = [\"198.51.100.0/24\"]\ngroups_max = 7\n[srt]\nlatency_ms = 50\n";
    rig.replace(text);
    let config = rig.settle().unwrap().config;
    assert!(allows(&config, "198.51.100.1") && !allows(&config, "192.0.2.1"));
    assert_eq!((config.srtla.groups_max, config.srt.latency_ms), (200, 1000), "need a restart");
    let status = rig.status();
    assert_eq!((status.generation, status.taken, status.refused), (2, 1, 0));
    assert_eq!(status.changed, ["srtla.allow"]);
    assert_eq!(status.needs_restart, ["srtla.groups_max", "srt.latency_ms"]);
    // Nothing new to put in force, but no longer anything that waits.
    rig.write("[srtla]\nallow = [\"198.51.100.0/24\"]\n# a word\n");
    assert!(rig.settle().is_none());
    let status = rig.status();
    assert_eq!((status.generation, status.taken), (2, 2));
    assert!(status.needs_restart.is_empty());
    assert_eq!(status.changed, ["srtla.allow"]);
}

#[test]
fn a_file_that_is_refused_changes_nothing() {
    let mut rig = Rig::start("[srtla]\nallow = [\"192.0.2.0/24\"]\n");
    let file = rig.file().display().to_string();
    for (text, problem) in [
        ("[srtla]\nallow = [\"192.0.2.0/33\"]\n[bans]\nstrikes = 1\n", ":4:9: srtla.allow: "),
        ("[srtla]\nallov = []\n", ":4:1: srtla.allov: unknown key (did you mean allow?)"),
        ("[srtla]\nallow = [\"192.0.2.", ":4:19: not valid TOML: "),
        ("[srtla]\nauth = \"open\"\n", ":4:8: srtla.auth: srtla.auth is \"open\": everybody could register"),
        ("[bans]\nfirst_s = 9\nmax_s = 8\n", ":4:11: bans.first_s: 9 is more than bans.max_s (8)"),
    ] {
        let before = rig.status();
        rig.write(text);
        assert!(rig.settle().is_none(), "{text}");
        let status = rig.status();
        assert!(status.problems[0].starts_with(&format!("{file}{problem}")), "{:?}", status.problems);
        assert_eq!((status.generation, status.taken, status.refused), (1, 0, before.refused + 1));
        rig.now += 10 * SETTLED;
        assert!(
            rig.look().is_none() && rig.status().refused == status.refused,
            "it is not read again and again"
        );
    }
    assert!(allows(&rig.watch.running, "192.0.2.1"));
    rig.write("[srtla]\nallow = [\"198.51.100.0/24\"]\n");
    assert!(allows(&rig.settle().unwrap().config, "198.51.100.1"));
    assert!(rig.status().problems.is_empty());
}

/// A truncated file, or none, would mean the defaults to a start: everywhere.
#[test]
fn gone_or_empty_is_not_the_defaults() {
    let mut rig = Rig::start("[srtla]\nallow = [\"192.0.2.0/24\"]\n");
    fs::write(rig.file(), "").unwrap();
    assert!(rig.settle().is_none());
    assert!(rig.status().problems[0].contains("b.toml: the file is empty"), "{:?}", rig.status().problems);
    fs::remove_file(rig.file()).unwrap();
    assert!(rig.settle().is_none());
    assert!(rig.status().problems[0].contains("cannot be read"), "{:?}", rig.status().problems);
    assert_eq!(rig.status().refused, 2);
    assert!(!rig.watch.is_waiting());
    rig.write("[srtla]\nallow = [\"192.0.2.0/24\"]\n");
    assert!(rig.settle().is_none(), "the same as ever");
    assert!(rig.status().problems.is_empty());
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    let mut rig = Rig::start("");
    for n in 0..50 {
        rig.write(&format!("[srtla]\nallow = [\"192.0.{n}.0/24\"]\n"));
        assert!(rig.look().is_none() && rig.watch.is_waiting());
        rig.now += SETTLED * 9 / 10;
        assert!(rig.look().is_none());
    }
    rig.write("[srtla]\nallow = [\"203.0.113.0/24\"]\n");
    assert!(allows(&rig.settle().unwrap().config, "203.0.113.1"));
    assert_eq!(rig.status().generation, 2);
}

#[test]
fn other_sources_stay_stronger() {
    let mut rig = Rig::with(
        "[bans]\nstrikes = 2\n",
        &[("BONDGATE__BANS__STRIKES", "3")],
        &["srtla.allow=192.0.2.0/24"],
    );
    rig.write("[bans]\nstrikes = 4\nwindow_s = 9\n[srtla]\nallow = [\"198.51.100.0/24\"]\n");
    let config = rig.settle().unwrap().config;
    assert_eq!((config.bans.strikes, config.bans.window_s), (3, 9));
    assert!(allows(&config, "192.0.2.1") && !allows(&config, "198.51.100.1"));
}

/// A file that is valid for a start, but not beside what only a start can change.
#[test]
fn both_together_have_to_be_valid() {
    let mut rig = Rig::start("");
    let before = rig.watch.running.clone();
    let mut without_state = before.clone();
    without_state.runtime.state_dir = None;
    without_state.srtla.auth = AuthMode::Open;
    rig.watch.running = without_state;
    rig.write("# touched\n");
    assert!(rig.settle().is_none());
    let problems = rig.status().problems;
    assert!(problems[0].contains("runtime.state_dir: off, but device keys have to be kept"), "{problems:?}");
    assert!(problems[0].ends_with("(restart bondgate, which runtime.state_dir needs)"), "{problems:?}");
}

#[test]
fn who_asks_is_answered() {
    let mut rig = Rig::start("");
    let state = rig.watch.state();
    let number = state.ask();
    assert!(state.read().answered < number);
    rig.look();
    assert!(rig.watch.is_waiting() || state.read().answered == number);
    rig.now += SETTLED;
    rig.look();
    assert_eq!((state.read().answered, state.read().taken), (number, 1));
    // By a signal, and with something to take up.
    rig.write("[bans]\nstrikes = 4\n");
    let number = state.ask();
    assert!(rig.watch.look(rig.now, true, &rig.geo).is_none());
    rig.now += SETTLED;
    assert!(rig.watch.look(rig.now, true, &rig.geo).is_some());
    assert!(state.read().answered < number, "it is not in force before somebody says so");
    rig.watch.is_in_force();
    assert_eq!(state.read().answered, number);
}

/// Countries that were not asked for before need a database; until it is read nothing of the file is in force.
#[test]
fn a_database_of_countries_is_read_aside() {
    let mut rig = Rig::start("");
    let database = rig.dir.path().join("a.mmdb");
    let text =
        format!("[bans]\nstrikes = 4\n[geo]\nallow = [\"DE\"]\ndatabase = \"{}\"\n", database.display());
    rig.write(&text);
    let finished = |rig: &mut Rig| {
        let refused = rig.status().refused;
        for _ in 0..5000 {
            let change = rig.look();
            if change.is_some() || rig.status().refused > refused {
                return change;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the database was not read");
    };
    assert!(rig.settle().is_none());
    assert!(finished(&mut rig).is_none());
    let problems = rig.status().problems;
    assert!(problems[0].contains("b.toml:7:12: geo.database: cannot read"), "{problems:?}");
    assert_eq!(rig.watch.running.bans.strikes, 5);

    let mut content = Database::new(Metadata::country(6, 24));
    content.insert_country([203, 0, 113, 1], 32, "DE");
    fs::write(&database, content.write().bytes).unwrap();
    rig.watch.state().ask();
    assert!(rig.look().is_none());
    let Change { config, countries } = finished(&mut rig).unwrap();
    assert_eq!(config.bans.strikes, 4);
    rig.geo.change(&config.geo, countries, rig.now);
    let set = rig.geo.set().unwrap();
    assert!(set.admits("203.0.113.1".parse().unwrap()) && !set.admits("203.0.113.2".parse().unwrap()));
    // Other rules for the same database are in force at once.
    rig.write(&text.replace("allow", "block"));
    let Change { config, countries } = rig.settle().unwrap();
    assert!(countries.is_none());
    rig.geo.change(&config.geo, countries, rig.now);
    assert!(!rig.geo.set().unwrap().admits("203.0.113.1".parse().unwrap()));
}

#[test]
fn a_thousand_rewrites_end_with_the_last_good_one() {
    let mut rig = Rig::start("");
    let mut taken = 0;
    for n in 0..1000_u32 {
        let good = format!("[srtla]\nallow = [\"10.{}.{}.0/24\"]\n", n / 250, n % 250);
        match n % 5 {
            0 => rig.replace(&good[..good.len() - 4]),
            1 | 3 => rig.replace(&good),
            2 => rig.write(&good),
            _ => rig.write("[srtla]\nallow = [\"10.0.0.0/40\"]\n"),
        }
        assert!(rig.look().is_none());
        // Some are left alone for long enough to be taken.
        rig.now += Duration::from_millis(if n % 7 == 0 { 20 } else { 2 });
        if let Some(change) = rig.look() {
            taken += 1;
            assert!(!change.config.srtla.allow.is_empty());
        }
    }
    rig.replace("[srtla]\nallow = [\"203.0.113.0/24\"]\n");
    rig.settle();
    rig.write("[srtla]\nallow = [\"203.0.113.0/40\"]\n");
    assert!(rig.settle().is_none());
    assert!(allows(&rig.watch.running, "203.0.113.1") && !allows(&rig.watch.running, "10.3.249.1"));
    let status = rig.status();
    assert_eq!((status.generation, status.problems.len()), (taken + 2, 1));
    assert!(taken > 0 && status.refused > 1, "{taken} {}", status.refused);
}
