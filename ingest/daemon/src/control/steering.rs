//! Steering: the kernel is told which link belongs to which shard, so that its datagrams come in there at once.
//!
//! One thread keeps a BPF map equal to what the shards say of their links, and attaches the program that looks into it to the
//! shards' sockets, or takes it off. The map is its own, so steering works with and without the gate. Promises: nothing is
//! lost while it is switched or while the map lags behind, because what comes in on the wrong shard is handed over; no
//! capability is needed after the start; where it cannot be, one line says why, and the shards hand over.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bondgate_ebpf::{Gate, GateError};
use bondgate_io::Waker;

use super::gate::links::Links;
use super::privileges;
use crate::config::{Config, SteeringChoice};
use crate::service::Service;
use crate::shard::steering::SteerOrders;

/// The listener wakes by itself this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a failure that lasts is said, and tried again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What metrics and tests see of steering.
#[derive(Debug, Default)]
pub struct SteeringState {
    is_wanted: AtomicBool,
    is_on: AtomicBool,
    links: AtomicUsize,
}

impl SteeringState {
    /// The kernel steers.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Links the kernel knows.
    pub fn links(&self) -> usize {
        if self.is_on() { self.links.load(Ordering::Relaxed) } else { 0 }
    }
}

/// The running control.
#[derive(Debug)]
pub struct Steering {
    stop: Arc<AtomicBool>,
    state: Arc<SteeringState>,
    thread: Option<JoinHandle<()>>,
}

impl Steering {
    /// Begins to steer if the configuration wants it and there are several shards. Needs the capabilities of this thread;
    /// afterwards they can go.
    ///
    /// # Errors
    /// It is not possible, and `runtime.steering` is "on".
    pub fn start(config: &Config, service: &Service, state: Arc<SteeringState>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let choice = config.runtime.steering;
        if service.sockets().is_empty() || choice == SteeringChoice::Off {
            return Ok(Self { stop, state, thread: None });
        }
        let control = match Control::open(service, Arc::clone(&state)) {
            Ok(control) => control,
            Err(error) if choice == SteeringChoice::On => {
                return Err(error).context("runtime.steering is \"on\"");
            }
            Err(error) => {
                tracing::info!("no steering, shards hand over what is not their own: {error:#}");
                return Ok(Self { stop, state, thread: None });
            }
        };
        state.is_wanted.store(true, Ordering::Release);
        let flag = Arc::clone(&stop);
        let drops_privileges = config.gate.drop_privileges;
        let thread = std::thread::Builder::new()
            .name("steering".to_owned())
            .spawn(move || {
                if drops_privileges {
                    privileges::drop_all();
                }
                control.run(&flag);
            })
            .context("cannot start a thread")?;
        Ok(Self { stop, state, thread: Some(thread) })
    }

    /// Begins or ends steering while everything runs; [`SteeringState::is_on`] tells when it is done.
    ///
    /// # Errors
    /// It was not possible at start.
    pub fn set(&self, on: bool) -> Result<()> {
        let Some(thread) = &self.thread else {
            bail!(
                "steering is off: there is one shard only, runtime.steering is \"off\", or it was not possible at start"
            );
        };
        self.state.is_wanted.store(on, Ordering::Release);
        thread.thread().unpark();
        Ok(())
    }

    /// Ends the control, and with it steering.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread {
            thread.thread().unpark();
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

struct Control {
    gate: Gate,
    sockets: Vec<UdpSocket>,
    wakers: Vec<Waker>,
    orders: SteerOrders,
    links: Links,
    state: Arc<SteeringState>,
    /// The last failure, and when it was said.
    said: Option<(String, Instant)>,
}

impl Control {
    fn open(service: &Service, state: Arc<SteeringState>) -> Result<Self> {
        let sockets =
            service.sockets().iter().map(UdpSocket::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        let gate = Gate::load()?;
        let shards = sockets.len() as u8;
        let mut control = Self {
            gate,
            sockets,
            wakers: service.wakers().to_vec(),
            orders: service.steering(),
            links: Links::new(Vec::new(), Instant::now(), 1, shards),
            state,
            said: None,
        };
        // Loads the program, which takes rights that may be gone later.
        control.switch(true)?;
        Ok(control)
    }

    /// Attaches the program or takes it off. What the map holds is brought up to date in either case.
    fn switch(&mut self, on: bool) -> Result<(), GateError> {
        let sockets: Vec<_> = self.sockets.iter().map(AsFd::as_fd).collect();
        if on {
            self.gate.steer(&sockets)?;
            self.ask_resync();
        } else {
            if let Some(first) = sockets.first() {
                Gate::unsteer(*first)?;
            }
            self.orders.stop();
        }
        self.state.is_on.store(on, Ordering::Release);
        tracing::info!(
            "steering {}",
            if on { "begins" } else { "ends: shards hand over what is not their own" }
        );
        Ok(())
    }

    fn ask_resync(&mut self) {
        self.links.begin_resync(self.orders.ask_resync());
        self.wakers.iter().for_each(Waker::wake);
    }

    fn run(mut self, stop: &AtomicBool) {
        self.orders.listen();
        while !stop.load(Ordering::Acquire) {
            let wanted = self.state.is_wanted.load(Ordering::Acquire);
            if wanted != self.state.is_on()
                && let Err(error) = self.switch(wanted)
            {
                self.say(&error);
                // Not again before it is asked for again.
                self.state.is_wanted.store(!wanted, Ordering::Release);
            }
            self.carry_out();
            std::thread::park_timeout(LOOK_EVERY);
        }
        if self.state.is_on() {
            let _ = self.switch(false);
        }
    }

    fn carry_out(&mut self) {
        while let Some(order) = self.orders.pop() {
            if let Err(error) = self.links.apply(order, &mut self.gate) {
                self.say(&error);
            }
        }
        if self.orders.is_lossy() {
            self.ask_resync();
        }
        self.state.links.store(self.links.count(), Ordering::Relaxed);
    }

    /// Says a failure, once a minute while it lasts.
    fn say(&mut self, error: &GateError) {
        let text = error.to_string();
        if self.said.as_ref().is_none_or(|(said, at)| *said != text || at.elapsed() > SAY_AGAIN) {
            tracing::warn!("steering: {text}");
            self.said = Some((text, Instant::now()));
        }
    }
}
