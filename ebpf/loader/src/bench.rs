//! The bench's programs: a generator inside the kernel, a clock at a socket, and the time in receiving soft interrupts.
//!
//! [`Instruments`] are loaded once per measurement and end with it; nothing is pinned. Promises: the generator runs on one
//! processor in a thread of its own and is stopped when [`Offering`] is; what was sent can be read at any time; frames leave by
//! the device that [`Offer::interface`] names in the network namespace of the thread that began.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{
    Program, ProgramError, RawTracePoint, SocketFilter, TestRun, TestRunAttrs, TestRunOptions, Xdp,
};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use bondgate_ebpf_common::bench::{
    FILLER, HEADERS_LEN, LATENCY, LATENCY_BUCKETS, OFFER, Offer, PROGRAM_ARRIVE, PROGRAM_OFFER,
    PROGRAMS_SOFTIRQ, PROGRESS, Progress, SENDERS, SENDERS_MAX, SOFTIRQ, Sender, Softirq, WINDOW, bucket_ns,
};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::gate::{errno, require, take_map};
use crate::maps::typed;
use crate::{GateError, features, sys};

/// The object with these programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/bench.bpf.o");
/// Compiler, linker, flags and hashes.
pub static PROVENANCE: &str = include_str!("../object/bench.bpf.txt");

/// Frames made in one go where as many as possible are: the receiving device takes up to 64 per turn.
const BATCH: u32 = 32;
/// Looks at the clock per system call; the call is cut short when the generator is stopped.
const LOOKS: u32 = 1 << 31;
/// XDP's verdict for a frame that leaves by another device.
const XDP_REDIRECT: u32 = 4;

/// Programs and maps of one measurement.
pub struct Instruments {
    /// Shared with the generator's thread while there is one.
    programs: Arc<Ebpf>,
    current: Offer,
    offer: Array<MapData, [u8; Offer::LEN]>,
    senders: Array<MapData, [u8; Sender::LEN]>,
    progress: Array<MapData, [u8; Progress::LEN]>,
    window: Array<MapData, u64>,
    latency: PerCpuArray<MapData, u64>,
    softirq: PerCpuArray<MapData, [u8; Softirq::LEN]>,
}

impl std::fmt::Debug for Instruments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

/// Why the generator cannot run here, if it cannot.
pub fn unavailable() -> Option<String> {
    require(features::missing_to_load()).err().map(|error| error.to_string())
}

impl Instruments {
    /// Loads the maps, and each program when it is needed.
    ///
    /// # Errors
    /// Missing rights, or the kernel does not take the maps.
    pub fn load() -> Result<Self, GateError> {
        Self::load_object(OBJECT)
    }

    /// As [`Self::load`], of another object than this binary's.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_object(object: &[u8]) -> Result<Self, GateError> {
        require(features::missing_to_load())?;
        let mut loader = EbpfLoader::new();
        // The object has no relocations against the kernel's own types.
        loader.btf(None);
        let mut programs =
            loader.load(object).map_err(|error| GateError::load("the bench's maps")(&error))?;
        let mut map = |name| take_map(&mut programs, name);
        let (offer, senders, progress) = (map(OFFER)?, map(SENDERS)?, map(PROGRESS)?);
        let (window, latency, softirq) = (map(WINDOW)?, map(LATENCY)?, map(SOFTIRQ)?);
        Ok(Self {
            programs: Arc::new(programs),
            current: Offer::default(),
            offer: typed(OFFER, offer)?,
            senders: typed(SENDERS, senders)?,
            progress: typed(PROGRESS, progress)?,
            window: typed(WINDOW, window)?,
            latency: typed(LATENCY, latency)?,
            softirq: typed(SOFTIRQ, softirq)?,
        })
    }

    /// Says what to offer. `senders` are the links: all of group 0, then those of group 1, and so on.
    ///
    /// # Errors
    /// More senders than there is room for, or the kernel refuses.
    pub fn set(&mut self, offer: &Offer, senders: impl IntoIterator<Item = Sender>) -> Result<(), GateError> {
        for (index, sender) in (0..).zip(senders) {
            if index >= SENDERS_MAX {
                return Err(GateError::Full { map: SENDERS, entries_max: SENDERS_MAX as usize });
            }
            self.senders.set(index, sender.to_bytes(), 0).map_err(GateError::map(SENDERS))?;
        }
        self.progress.set(0, [0; Progress::LEN], 0).map_err(GateError::map(PROGRESS))?;
        self.offer.set(0, offer.to_bytes(), 0).map_err(GateError::map(OFFER))?;
        self.current = *offer;
        Ok(())
    }

    /// Makes one frame without sending it, out of one that is there already: `None` when nothing is due.
    ///
    /// # Errors
    /// The kernel does not take the program.
    pub fn frame(&mut self, before: &[u8]) -> Result<Option<Vec<u8>>, GateError> {
        self.load_generator()?;
        let mut out = vec![0; before.len().max(HEADERS_LEN + self.current.longest() as usize)];
        let result = generator(&self.programs)?
            .test_run(TestRunOptions {
                data_in: Some(before),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            })
            .map_err(|error| GateError::load(PROGRAM_OFFER)(&error))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value == XDP_REDIRECT).then_some(out))
    }

    /// An empty frame, as the generator begins with.
    pub fn blank(&self) -> Vec<u8> {
        vec![FILLER; HEADERS_LEN + self.current.longest() as usize]
    }

    /// Begins to offer what was set, on processor `cpu` and in this thread's network namespace.
    ///
    /// # Errors
    /// The kernel does not take the program, or there are no threads left.
    pub fn begin(&mut self, cpu: usize) -> Result<Offering, GateError> {
        self.load_generator()?;
        sys::make_interruptible().map_err(|error| GateError::Load(error.to_string()))?;
        let is_flat_out = (self.current.datagram_bytes > 0 && self.current.interval == 0)
            || (self.current.flood != 0 && self.current.flood_interval == 0);
        let (programs, frame) = (Arc::clone(&self.programs), self.blank());
        let (stop, id) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&id));
        let work = move || {
            told.store(sys::thread_id(), Ordering::Release);
            let mut set = CpuSet::new();
            set.set(cpu);
            // Where there is only one processor, it runs there.
            let _ = sched_setaffinity(None, &set);
            while !stopped.load(Ordering::Acquire) {
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    repeat: LOOKS,
                    attrs: TestRunAttrs::new().xdp_live_frames(if is_flat_out { BATCH } else { 1 }),
                    ..TestRunOptions::default()
                };
                match generator(&programs)?.test_run(options) {
                    Err(error) if errno(&error) != Some(libc::EINTR) => {
                        return Err(GateError::load(PROGRAM_OFFER)(&error));
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        let worker = thread::Builder::new()
            .name("generator".into())
            .spawn(work)
            .map_err(|error| GateError::Load(error.to_string()))?;
        Ok(Offering { stop, id, worker: Some(worker) })
    }

    /// What was offered so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn progress(&self) -> Result<Progress, GateError> {
        let bytes = self.progress.get(&0, 0).map_err(GateError::map(PROGRESS))?;
        Ok(Progress::from_bytes(&bytes))
    }

    /// From now on notes how late datagrams come to a socket. To be called before [`Self::begin`].
    ///
    /// # Errors
    /// The kernel does not take the program.
    pub fn note_arrivals(&mut self, socket: BorrowedFd<'_>) -> Result<(), GateError> {
        let fail = GateError::load(PROGRAM_ARRIVE);
        let program: &mut SocketFilter = self.program_mut(PROGRAM_ARRIVE)?;
        match program.load().and_then(|()| program.attach(socket)) {
            Ok(()) => Ok(()),
            Err(error) => Err(fail(&error)),
        }
    }

    /// Latencies noted so far are forgotten; from now on those of this number and later ones count.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_window(&mut self, from: u64) -> Result<(), GateError> {
        self.window.set(0, u64::MAX, 0).map_err(GateError::map(WINDOW))?;
        for bucket in 0..LATENCY_BUCKETS {
            let zeros = PerCpuValues::try_from(vec![0; cpus()?])
                .map_err(|error| GateError::Map { map: LATENCY.into(), why: error.to_string() })?;
            self.latency.set(bucket, zeros, 0).map_err(GateError::map(LATENCY))?;
        }
        self.window.set(0, from, 0).map_err(GateError::map(WINDOW))
    }

    /// Latencies in ns, rising, and how many of each.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn latencies(&self) -> Result<Vec<(u64, u64)>, GateError> {
        let mut latencies = Vec::new();
        for bucket in 0..LATENCY_BUCKETS {
            let counts = self.latency.get(&bucket, 0).map_err(GateError::map(LATENCY))?;
            let count: u64 = counts.iter().sum();
            if count > 0 {
                latencies.push((bucket_ns(bucket), count));
            }
        }
        Ok(latencies)
    }

    /// From now on times the soft interrupts that receive. To be called before [`Self::begin`].
    ///
    /// # Errors
    /// The kernel does not take the programs.
    pub fn time_softirqs(&mut self) -> Result<(), GateError> {
        for name in PROGRAMS_SOFTIRQ {
            let fail = GateError::load(name);
            let program: &mut RawTracePoint = self.program_mut(name)?;
            match program.load().and_then(|()| program.attach(name)) {
                Ok(_) => {}
                Err(error) => return Err(fail(&error)),
            }
        }
        Ok(())
    }

    /// Time in soft interrupts that receive so far, in ns, by processor.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn softirq_ns(&self) -> Result<Vec<u64>, GateError> {
        let values = self.softirq.get(&0, 0).map_err(GateError::map(SOFTIRQ))?;
        Ok(values.iter().map(|bytes| Softirq::from_bytes(bytes).total_ns).collect())
    }

    fn program_mut<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, GateError>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let programs = Arc::get_mut(&mut self.programs)
            .ok_or_else(|| GateError::Load(format!("{name} has to be there before the generator runs")))?;
        let program = programs
            .program_mut(name)
            .ok_or_else(|| GateError::Load(format!("the object has no program {name}")))?;
        program.try_into().map_err(|error| GateError::load("the bench's object")(&error))
    }

    fn load_generator(&mut self) -> Result<(), GateError> {
        if Arc::get_mut(&mut self.programs).is_none() {
            return Ok(());
        }
        let program: &mut Xdp = self.program_mut(PROGRAM_OFFER)?;
        if program.fd().is_ok() {
            return Ok(());
        }
        program.load().map_err(|error| GateError::load(PROGRAM_OFFER)(&error))
    }
}

fn generator(programs: &Ebpf) -> Result<&Xdp, GateError> {
    let program = programs
        .program(PROGRAM_OFFER)
        .ok_or_else(|| GateError::Load("the object has no generator".into()))?;
    program.try_into().map_err(|error| GateError::load(PROGRAM_OFFER)(&error))
}

fn cpus() -> Result<usize, GateError> {
    nr_cpus().map_err(|(file, error)| GateError::Load(format!("{file}: {error}")))
}

/// A generator that runs; it stops when this is dropped.
#[derive(Debug)]
pub struct Offering {
    stop: Arc<AtomicBool>,
    id: Arc<AtomicI32>,
    worker: Option<JoinHandle<Result<(), GateError>>>,
}

impl Offering {
    /// Stops it; what was sent until then is under way or has arrived.
    ///
    /// # Errors
    /// Why it had ended before.
    pub fn stop(mut self) -> Result<(), GateError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), GateError> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        self.stop.store(true, Ordering::Release);
        // It may be just about to enter the system call: until it has ended it is told again.
        while !worker.is_finished() {
            sys::interrupt(self.id.load(Ordering::Acquire));
            thread::sleep(Duration::from_millis(2));
        }
        worker.join().unwrap_or_else(|_| Err(GateError::Load("the generator's thread ended early".into())))
    }
}

impl Drop for Offering {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
