//! The demo's bonding sender: the loop of `bondgate send` on a thread, with its state published ten times a second.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bondgate_auth::keyring::Provision;
use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{AnyBackend, Limits};
use bondgate_proto::sender::{DEFAULT_OFFER, Sa1Config, Sa1Mode, Sender, SenderConfig};

use crate::config::BackendChoice;
use crate::service::{backend_choice, random};
use crate::shard::bond::{Bond, BondNotice, BondStatus, LinkSpec, wall_clock};

const PUBLISH_EVERY: Duration = Duration::from_millis(100);
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// The running bonding sender.
#[derive(Debug)]
pub struct Bonding {
    local: SocketAddr,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<Option<BondStatus>>>,
    thread: Option<JoinHandle<()>>,
}

impl Bonding {
    /// Starts a sender that bonds over links bound to `sources` towards `receiver`, all of which must open, and that
    /// registers with this key or not at all.
    ///
    /// # Errors
    /// When a link, the backend or the thread cannot be had.
    pub fn start(
        receiver: SocketAddr,
        sources: &[Ipv4Addr],
        choice: BackendChoice,
        key: &Provision,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let status = Arc::new(Mutex::new(None));
        let (ready_tx, ready_rx) = mpsc::channel();
        let (flag, slot) = (Arc::clone(&stop), Arc::clone(&status));
        let (sources, key) = (sources.to_vec(), key.clone());
        // Built on its thread: an io_uring belongs to the thread that made it.
        let thread = std::thread::Builder::new().name("bonding".to_owned()).spawn(move || {
            let (mut bond, local) = match build(receiver, &sources, choice, &key) {
                Ok(built) => built,
                Err(error) => return drop(ready_tx.send(Err(error))),
            };
            drop(ready_tx.send(Ok(local)));
            let mut publish_at = Instant::now();
            while !flag.load(Ordering::Relaxed) {
                if let Err(error) = bond.turn() {
                    tracing::error!("the bonding sender's backend failed: {error}");
                    return;
                }
                let now = Instant::now();
                if now >= publish_at {
                    publish_at = now + PUBLISH_EVERY;
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(bond.status());
                }
            }
        })?;
        let mut bonding =
            Self { local: (Ipv4Addr::UNSPECIFIED, 0).into(), stop, status, thread: Some(thread) };
        bonding.local = ready_rx.recv().context("the bonding sender ended at once")??;
        Ok(bonding)
    }

    /// Where an encoder sends SRT to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The links' state, a tenth of a second old at most; `None` before the first turn.
    pub fn status(&self) -> Option<BondStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has ended although nobody stopped it.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Drop for Bonding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was reported by the hook
        }
    }
}

fn build(
    receiver: SocketAddr,
    sources: &[Ipv4Addr],
    choice: BackendChoice,
    key: &Provision,
) -> anyhow::Result<(Bond<AnyBackend>, SocketAddr)> {
    let limits = Limits { sockets: 32, ..Limits::default() };
    let (backend, _) = bondgate_io::open(backend_choice(choice), &limits)
        .context("no packet backend works here; try --backend mmsg")?;
    let local = bind_udp((Ipv4Addr::LOCALHOST, 0).into(), &BindOptions::default())?;
    let addr = local.local_addr()?;
    let key = Sa1Config {
        credentials: key.credentials(DEFAULT_OFFER),
        offered: DEFAULT_OFFER,
        mode: Sa1Mode::Require,
        entropy: random()?,
        clock: wall_clock(Instant::now()),
    };
    let sender = Sender::with_key(SenderConfig::default(), u64::from_be_bytes(random::<8>()?), key);
    let links = sources.iter().map(|source| LinkSpec::Address(IpAddr::V4(*source))).collect();
    let (failed_tx, failed_rx) = mpsc::channel();
    let notice = move |notice| match notice {
        BondNotice::LinkFailed { name, error } => drop(failed_tx.send(format!("{name}: {error}"))),
        other => tracing::debug!("{other:?}"),
    };
    let mut bond = Bond::new(backend, sender, local, receiver, links, SOCKET_BUFFER_BYTES, notice)?;
    if bond.open_links(Instant::now()) < sources.len() {
        let failed: Vec<String> = failed_rx.try_iter().collect();
        bail!("not all links of the demo can be opened: {}", failed.join("; "));
    }
    Ok((bond, addr))
}
