//! The gate's control: brings the policy and the registered links into the maps of the XDP program, and watches that it is there.
//!
//! One thread, which writes maps and nothing else; neither shards nor the supervisor wait for it. Promises: a policy is in the maps
//! within 50 ms; a link is there within the time of a wake-up after its shard has named it; what cannot be written is said and
//! the application's own checks do; all this needs no capability once the gate is attached. Nobody else writes these maps.

pub mod links;
pub mod tables;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bondgate_auth::geo::GeoSet;
use bondgate_ebpf::{Attachment, Counters, Fill, Gate, GateError, Mode, Wanted};
use bondgate_ebpf_common::abi::{CHECK_GEO, GEO_UNKNOWN_REFUSED, List};

use super::geo::gate_table;
use crate::config::{Config, GateAttach, GateMode, OnDetach};
use crate::policy::PolicySlot;
use crate::service::{Service, random};
use crate::shard::steering::SteerOrders;
use links::Links;
use tables::{Clocks, Listeners, Tables};

/// How often the policy is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the gate itself is looked at, and counted.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How long a gate that somebody else has attached waits for the shards to name their links before it begins to drop.
const SYNC_WITHIN: Duration = Duration::from_secs(2);
/// How often a failure that lasts is said.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What the metrics show.
#[derive(Clone, Debug, Default)]
pub struct GateSnapshot {
    /// Interfaces it is attached to, and how.
    pub interfaces: Vec<(String, Mode)>,
    /// What it has counted since its maps were made.
    pub counters: Counters,
    /// Registered links.
    pub links: usize,
    /// How full its other maps are.
    pub fill: Fill,
    /// Version of the policy that is in the maps.
    pub generation: u64,
    /// The policy in force is in the maps.
    pub is_in_step: bool,
}

/// Where the snapshot is published.
#[derive(Debug, Default)]
pub struct GateSlot(Mutex<Option<GateSnapshot>>);

impl GateSlot {
    /// The last snapshot; `None` while there is no gate.
    pub fn read(&self) -> Option<GateSnapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, snapshot: Option<GateSnapshot>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

/// The running control.
#[derive(Debug)]
pub struct GateControl {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GateControl {
    /// Attaches the gate as the configuration asks, with the policy in force, and keeps it so. Needs the capabilities of this
    /// thread; afterwards they can go.
    ///
    /// # Errors
    /// It cannot be attached and has to be.
    pub fn start(config: &Config, service: &Service, slot: Arc<GateSlot>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        if config.gate.attach == GateAttach::Off {
            if Gate::is_there(&config.gate.pin_dir) {
                tracing::warn!(
                    "gate.attach is \"off\" and a gate is attached, which nobody fills: it may drop senders that register from now on; \
                     `bondgate xdp detach` removes it"
                );
            }
            return Ok(Self { stop, thread: None });
        }
        let mut control = Control {
            pin_dir: config.gate.pin_dir.clone(),
            on_detach: config.gate.on_detach,
            listeners: Listeners {
                srtla: service.srtla_addr().port(),
                srt: service.srt_addr().map(|addr| addr.port()),
                shards: config.runtime.shards,
            },
            inherited_for: Duration::from_millis(config.srtla.link_timeout_ms),
            generation: u32::from_be_bytes(random()?).max(1),
            seed: [u64::from_be_bytes(random()?), u64::from_be_bytes(random()?)],
            policy: service.policy_slot(),
            orders: service.orders(),
            closed: service.closed(),
            slot,
            open: None,
            said: None,
        };
        control.begin(config)?;
        let flag = Arc::clone(&stop);
        let drop_privileges = config.gate.drop_privileges;
        let thread = std::thread::Builder::new()
            .name("gate".to_owned())
            .spawn(move || {
                if drop_privileges {
                    super::privileges::drop_all();
                }
                control.run(&flag);
            })
            .context("cannot start a thread")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the control. The gate stays, with the policy it has.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread {
            thread.thread().unpark();
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// What the thread knows.
struct Control {
    pin_dir: PathBuf,
    on_detach: OnDetach,
    listeners: Listeners,
    inherited_for: Duration,
    generation: u32,
    seed: [u64; 2],
    policy: Arc<PolicySlot>,
    orders: SteerOrders,
    closed: Arc<AtomicBool>,
    slot: Arc<GateSlot>,
    open: Option<Open>,
    /// The last failure, and when it was said.
    said: Option<(String, Instant)>,
}

/// A gate whose maps are open.
struct Open {
    gate: Gate,
    links: Links,
    clocks: Clocks,
    /// Version of the policy in the maps.
    version: Option<u64>,
    /// The countries in force, and whether they fit into the maps.
    geo: Option<(Arc<GeoSet>, bool)>,
    /// Do not drop before the shards have named their links, or this moment.
    wait_until: Option<Instant>,
    attachments: Vec<Attachment>,
    /// Whether the policy of this version could not be written, and when to try again.
    retry_at: Option<Instant>,
}

impl Open {
    fn is_attached(&self) -> bool {
        self.attachments.iter().any(|attachment| attachment.is_alive)
    }

    /// Brings the countries into the maps, if they are others. False if there are none to ask for, or too many, which the watcher
    /// of the database has said: then only the application asks for them.
    fn write_countries(&mut self, geo: Option<&Arc<GeoSet>>) -> Result<bool, GateError> {
        let Some(geo) = geo else {
            self.geo = None;
            return Ok(false);
        };
        if let Some((known, fits)) = &self.geo
            && Arc::ptr_eq(known, geo)
        {
            return Ok(*fits);
        }
        let table = gate_table(geo);
        if let Ok(table) = &table {
            self.gate.set_list(List::Geo, tables::countries(table))?;
        }
        self.geo = Some((Arc::clone(geo), table.is_ok()));
        Ok(table.is_ok())
    }
}

impl Control {
    /// What has to be done before anybody may register.
    fn begin(&mut self, config: &Config) -> anyhow::Result<()> {
        let gate = &config.gate;
        let needed = gate.attach == GateAttach::On || gate.on_detach == OnDetach::Closed;
        if !gate.interfaces.is_empty() {
            match self.attach(config) {
                Ok(()) => {}
                Err(error) if needed => {
                    return Err(error).context(
                        "the gate cannot be attached, and gate.attach = \"on\" or gate.on_detach = \"closed\" demands it",
                    );
                }
                Err(error) => {
                    tracing::warn!("no gate, the application's own checks do: {error}");
                }
            }
        } else if Gate::is_there(&self.pin_dir) {
            self.find();
        }
        self.watch();
        if gate.on_detach == OnDetach::Closed && !self.open.as_ref().is_some_and(Open::is_attached) {
            bail!(
                "gate.on_detach is \"closed\" and no gate is attached: name gate.interfaces, or `bondgate xdp attach` first"
            );
        }
        Ok(())
    }

    /// Makes the gate or finds it, fills it, then attaches it: it never drops by a policy that is not there yet.
    fn attach(&mut self, config: &Config) -> Result<(), GateError> {
        let wanted = match config.gate.mode {
            GateMode::Auto => Wanted::Auto,
            GateMode::Native => Wanted::Exactly(Mode::Native),
            GateMode::Generic => Wanted::Exactly(Mode::Generic),
        };
        if Gate::is_there(&self.pin_dir)
            && Gate::pinned(&self.pin_dir).is_ok_and(|pinned| !pinned.is_own || !pinned.is_readable)
        {
            Gate::replace(&self.pin_dir)?;
            tracing::info!("gate: the program of another version was replaced");
        }
        let gate = Gate::open(&self.pin_dir)?;
        self.take(gate)?;
        self.write_policy()?;
        let Some(open) = &mut self.open else { return Ok(()) };
        for interface in &config.gate.interfaces {
            let attached = open.gate.attach(interface, wanted)?;
            let how = if attached.was_attached { "found attached" } else { "attached" };
            tracing::info!(interface, mode = attached.mode.name(), "gate {how}");
            if let Some(why) = attached.fallback {
                tracing::warn!(interface, "gate in generic mode, which is slower: {why}");
            }
        }
        Ok(())
    }

    /// Takes over a gate that is there.
    fn find(&mut self) {
        let taken = Gate::open_pinned(&self.pin_dir).and_then(|gate| self.take(gate));
        match taken {
            Ok(()) => tracing::info!("gate found, taking it over"),
            Err(error) => self.say(&error),
        }
    }

    fn take(&mut self, gate: Gate) -> Result<(), GateError> {
        let now = Instant::now();
        let inherited: Vec<_> = gate.links()?.into_iter().map(|(key, _)| key).collect();
        // A gate that was never filled lets everything pass; it goes on doing so until the links are known.
        let is_new = gate.generation()? == 0;
        let mut links =
            Links::new(inherited, now + self.inherited_for, self.generation, self.listeners.shards);
        links.begin_resync(self.orders.ask_resync());
        self.open = Some(Open {
            gate,
            links,
            clocks: Clocks::read(),
            version: None,
            geo: None,
            wait_until: is_new.then(|| now + SYNC_WITHIN),
            attachments: Vec::new(),
            retry_at: None,
        });
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool) {
        self.orders.listen();
        let mut watch_at = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            self.links();
            if let Some(open) = &mut self.open {
                let may_write =
                    open.wait_until.is_none_or(|until| open.links.is_synced() || Instant::now() >= until);
                let may_try = open.retry_at.is_none_or(|at| Instant::now() >= at);
                if may_write
                    && may_try
                    && (open.version != Some(self.policy.version()) || open.clocks.is_off())
                    && let Err(error) = self.write_policy()
                {
                    self.say(&error);
                }
            }
            if Instant::now() >= watch_at {
                watch_at = Instant::now() + WATCH_EVERY;
                self.watch();
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        self.orders.stop();
    }

    /// Carries out what the shards have ordered.
    fn links(&mut self) {
        let Some(open) = &mut self.open else { return };
        let mut failed = None;
        while let Some(order) = self.orders.pop() {
            if let Err(error) = open.links.apply(order, &mut open.gate) {
                failed = Some(error);
            }
        }
        if self.orders.is_lossy() {
            open.links.begin_resync(self.orders.ask_resync());
        }
        if let Err(error) = open.links.forget_inherited(Instant::now(), &mut open.gate) {
            failed = Some(error);
        }
        if let Some(error) = failed {
            self.say(&error);
        }
    }

    /// Brings the policy in force into the maps. Lists come before the configuration that looks at them, and go after it.
    fn write_policy(&mut self) -> Result<(), GateError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let version = self.policy.version();
        open.retry_at = Some(Instant::now() + Duration::from_secs(1));
        if open.clocks.is_off() {
            open.clocks = Clocks::read();
        }
        let tables = Tables::compile(&self.policy.load(), self.listeners, &open.clocks);
        let mut config = tables.config;
        // 0 would mean that it was never filled.
        config.generation = version + 1;
        config.seed = self.seed;
        let (used, unused): (Vec<_>, Vec<_>) = List::ALL
            .into_iter()
            .zip(tables.lists)
            .filter(|(list, _)| *list != List::Geo)
            .partition(|(_, entries)| !entries.is_empty());
        open.gate.set_bans(&tables.bans)?;
        for (list, entries) in used {
            open.gate.set_list(list, entries)?;
        }
        let asks_countries = open.write_countries(tables.geo.as_ref())?;
        if !asks_countries {
            config.flags &= !(CHECK_GEO | GEO_UNKNOWN_REFUSED);
        }
        open.gate.set_config(&config)?;
        if !asks_countries {
            open.gate.set_list(List::Geo, Vec::new())?;
        }
        for (list, entries) in unused {
            open.gate.set_list(list, entries)?;
        }
        open.version = Some(version);
        open.wait_until = None;
        open.retry_at = None;
        self.said = None;
        Ok(())
    }

    /// Looks whether the gate is there, publishes what it has counted, and does what is to be done without it.
    fn watch(&mut self) {
        if self.open.as_ref().is_some_and(|open| !open.gate.is_current()) {
            tracing::warn!("gate: its pins are gone or others'");
            self.open = None;
            self.orders.stop();
        }
        if self.open.is_none() && Gate::is_there(&self.pin_dir) {
            self.find();
        }
        let was_attached = self.slot.read().is_some_and(|snapshot| !snapshot.interfaces.is_empty());
        let snapshot = match self.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.say(&error);
                None
            }
        };
        let is_attached = snapshot.as_ref().is_some_and(|snapshot| !snapshot.interfaces.is_empty());
        self.slot.publish(snapshot);
        let closed = self.on_detach == OnDetach::Closed && !is_attached;
        self.closed.store(closed, Ordering::Relaxed);
        match (was_attached, is_attached) {
            (true, false) if closed => {
                tracing::error!(
                    "gate detached: nobody may register until it is back (gate.on_detach = \"closed\")"
                );
            }
            (true, false) => tracing::warn!("gate detached: the application's own checks do"),
            (false, true) => tracing::info!("gate in force"),
            _ => {}
        }
    }

    fn snapshot(&mut self) -> Result<Option<GateSnapshot>, GateError> {
        let Some(open) = &mut self.open else { return Ok(None) };
        open.attachments = match Gate::pinned(&self.pin_dir) {
            Ok(pinned) => pinned.attachments,
            Err(GateError::NotThere(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let alive = open.attachments.iter().filter(|attachment| attachment.is_alive);
        let interfaces = alive.map(|attachment| (attachment.interface.clone(), attachment.mode)).collect();
        Ok(Some(GateSnapshot {
            interfaces,
            counters: open.gate.counters()?,
            links: open.links.count(),
            fill: open.gate.fill(),
            generation: open.gate.generation()?,
            is_in_step: open.version == Some(self.policy.version()),
        }))
    }

    /// Says a failure, once a minute while it lasts.
    fn say(&mut self, error: &GateError) {
        let text = error.to_string();
        let is_news = self.said.as_ref().is_none_or(|(said, at)| *said != text || at.elapsed() > SAY_AGAIN);
        if is_news {
            tracing::error!("gate: {text}");
            self.said = Some((text, Instant::now()));
        }
    }
}
