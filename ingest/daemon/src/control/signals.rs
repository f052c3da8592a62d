//! SIGTERM and SIGINT: the first asks for an orderly stop, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::Exit;

/// The signals this process received.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT of the whole process. Call it once.
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
        Ok(Self { stop })
    }

    /// Has a stop been asked for?
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag itself, for threads that have no other way to look.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }
}
