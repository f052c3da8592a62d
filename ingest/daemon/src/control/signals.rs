//! SIGTERM and SIGINT: the first asks for an orderly stop, the second ends the process at once. SIGUSR1 ends steering and
//! SIGUSR2 begins it again. SIGHUP asks to read the configuration again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;

use crate::exit::Exit;

/// The signals this process received.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    steering_off: Arc<AtomicBool>,
    steering_on: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over these signals of the whole process. Call it once.
    ///
    /// # Errors
    /// The system refuses the handler.
    pub fn install() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset, sets it, and only a second one ends the process.
            flag::register_conditional_shutdown(signal, Exit::Runtime as i32, stop.clone())?;
            flag::register(signal, stop.clone())?;
        }
        let (steering_off, steering_on) = (Arc::default(), Arc::default());
        flag::register(SIGUSR1, Arc::clone(&steering_off))?;
        flag::register(SIGUSR2, Arc::clone(&steering_on))?;
        let reload = Arc::default();
        flag::register(SIGHUP, Arc::clone(&reload))?;
        Ok(Self { stop, steering_off, steering_on, reload })
    }

    /// Has a stop been asked for?
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether steering was asked to begin (or end) since the last call.
    pub fn take_steering(&self) -> Option<bool> {
        let off = self.steering_off.swap(false, Ordering::Relaxed);
        let on = self.steering_on.swap(false, Ordering::Relaxed);
        if off || on { Some(on) } else { None }
    }

    /// Whether the configuration was asked to be read again since the last call.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// The flag itself, for threads that have no other way to look.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }
}
