use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bondgate_auth::geo::Country;
use bondgate_mmdb::{Database, Metadata};

use super::*;

const ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// A database that knows one network.
fn database(code: &str) -> Vec<u8> {
    let mut database = Database::new(Metadata::country(6, 24));
    database.insert_country(ADDR, 32, code);
    database.write().bytes
}

fn geo(path: &Path) -> Geo {
    Geo { database: Some(path.to_owned()), allow: vec![Country::parse("DE").unwrap()], ..Geo::default() }
}

struct Rig {
    watch: GeoWatch,
    set: Arc<GeoSet>,
    figures: Arc<GeoFigures>,
    now: Instant,
}

impl Rig {
    fn start(path: &Path) -> Self {
        let (figures, now) = (Arc::<GeoFigures>::default(), Instant::now());
        let watch = GeoWatch::start(&geo(path), figures.clone(), now).unwrap();
        let set = watch.set().unwrap();
        Self { watch, set, figures, now }
    }

    fn is_reading(&self) -> bool {
        self.watch.open.as_ref().is_some_and(|open| open.reading.is_some())
    }

    /// Looks until the file that is there now has been read; whether there is a new set.
    fn settle(&mut self) -> bool {
        let counted = |figures: &GeoFigures| {
            figures.loaded.load(Ordering::Relaxed) + figures.refused.load(Ordering::Relaxed)
        };
        let before = counted(&self.figures);
        assert!(self.watch.look(self.now).is_none(), "a file that has just changed is left alone");
        assert!(!self.is_reading());
        self.now += SETTLED;
        for _ in 0..10_000 {
            let set = self.watch.look(self.now);
            if let Some(set) = set {
                self.set = set;
                return true;
            }
            if counted(&self.figures) > before {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the new file was not read");
    }
}

#[test]
fn without_countries_there_is_nothing_to_watch() {
    let now = Instant::now();
    for geo in [Geo::default(), Geo { database: Some("/nowhere.mmdb".into()), ..Geo::default() }] {
        assert!(GeoWatch::start(&geo, Arc::default(), now).unwrap().set().is_none());
    }
    let error = GeoWatch::start(&geo(Path::new("/nowhere.mmdb")), Arc::default(), now).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "geo.database: cannot read /nowhere.mmdb: No such file or directory (os error 2)"
    );
}

#[test]
fn a_new_file_is_taken_up_and_a_bad_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mmdb");
    fs::write(&path, database("DE")).unwrap();
    let mut rig = Rig::start(&path);
    assert!(rig.set.admits(ADDR));
    assert!(rig.watch.look(rig.now + 2 * SETTLED).is_none(), "nothing has changed");

    // Renamed over.
    let other = dir.path().join("b.mmdb");
    fs::write(&other, database("FR")).unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(rig.settle());
    assert!(!rig.set.admits(ADDR));

    // Written in place, and only half of it.
    let whole = database("DE");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(!rig.settle());
    assert!(!rig.set.admits(ADDR), "the old one stays");
    assert!(rig.watch.look(rig.now + 2 * SETTLED).is_none(), "it is not read again and again");
    fs::write(&path, &whole).unwrap();
    assert!(rig.settle());
    assert!(rig.set.admits(ADDR));

    // Gone, and back.
    fs::remove_file(&path).unwrap();
    assert!(rig.watch.look(rig.now).is_none());
    rig.now += 2 * SETTLED;
    assert!(rig.watch.look(rig.now).is_none() && !rig.is_reading());
    fs::write(&path, database("FR")).unwrap();
    assert!(rig.settle());

    let figures =
        [&rig.figures.loaded, &rig.figures.refused, &rig.figures.networks, &rig.figures.built_unix_s];
    assert_eq!(figures.map(|figure| figure.load(Ordering::Relaxed)), [4, 1, 1, 1_780_000_000]);
}

#[test]
fn a_file_that_keeps_changing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mmdb");
    let whole = database("FR");
    fs::write(&path, database("DE")).unwrap();
    let mut rig = Rig::start(&path);
    for end in [10, 20, 30] {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(rig.watch.look(rig.now).is_none());
        rig.now += SETTLED * 9 / 10;
        assert!(rig.watch.look(rig.now).is_none() && !rig.is_reading());
    }
    fs::write(&path, &whole).unwrap();
    assert!(rig.settle());
    assert_eq!(rig.figures.refused.load(Ordering::Relaxed), 0);
}

#[test]
fn unknown_codes_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mmdb");
    fs::write(&path, database("DE")).unwrap();
    let block = ["DE", "XX", "FR"].map(|code| Country::parse(code).unwrap()).to_vec();
    let geo = Geo { database: Some(path.clone()), block, ..Geo::default() };
    let (_, set) = load(&geo, &path).unwrap();
    assert_eq!(unheard_of(&set), ["XX", "FR"].map(|code| Country::parse(code).unwrap()));
}

/// Other rules for the same database need no reading; another database does, and is not in force before.
#[test]
fn another_section_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a.mmdb"), dir.path().join("b.mmdb"));
    fs::write(&path, database("DE")).unwrap();
    fs::write(&other, database("FR")).unwrap();
    let mut rig = Rig::start(&path);
    let france = Geo { allow: vec![Country::parse("FR").unwrap()], ..geo(&path) };
    let mut change = |geo: &Geo| {
        let read = rig.watch.to_read(geo).map(|path| read(geo, &path).unwrap());
        let was_read = read.is_some();
        rig.watch.change(geo, read, rig.now);
        (was_read, rig.watch.set().map(|set| set.admits(ADDR)))
    };
    assert_eq!(change(&france), (false, Some(false)));
    assert_eq!(change(&geo(&path)), (false, Some(true)));
    assert_eq!(change(&Geo { database: Some(other.clone()), ..france.clone() }), (true, Some(true)));
    assert_eq!(change(&Geo { database: Some(other), ..Geo::default() }), (false, None));
    assert!(rig.figures.scrape(0).is_none());
    let (mut watch, now) = (rig.watch, rig.now);
    assert!(watch.look(now + 2 * SETTLED).is_none());
    assert_eq!(watch.to_read(&france).as_deref(), Some(&*path));
    watch.change(&france, Some(read(&france, &path).unwrap()), now);
    assert!(!watch.set().unwrap().admits(ADDR));
    assert!(rig.figures.scrape(0).is_some());
}
