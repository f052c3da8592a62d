//! The bonding sender's loop: SRT from a local encoder on one UDP socket, the same packets over several links to an
//! SRTLA receiver. One thread, the same [`Backend`] as a shard.
//!
//! A link is a local address or a network interface. Interfaces may come and go while it runs: once a second the
//! list is read and links are added or removed; a lost link costs nothing but its share.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bondgate_io::socket::{BindOptions, bind_udp, interfaces};
use bondgate_io::{Backend, Role, SocketId};
use bondgate_proto::sender::{
    LinkIndex, LinkLabel, LinkState, LinkStats, Refusal, Registration, Sender, SenderAction, SenderActions,
    SenderCounters, SenderNotice, SenderVerdict, WallClock,
};

/// How often interfaces are looked at.
const INTERFACES_EVERY: Duration = Duration::from_secs(1);
/// Most time between two looks at the stop flag.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How often the status callback is called.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// First bytes of an SRT handshake.
const SRT_HANDSHAKE: [u8; 2] = [0x80, 0x00];

/// What the user named as a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkSpec {
    /// Bind to this local address.
    Address(IpAddr),
    /// Bind to the addresses of this interface, whatever they are at the time.
    Interface(String),
    /// Every interface that is up, has an address of the receiver's family and is not loopback.
    Auto,
}

impl std::str::FromStr for LinkSpec {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse::<IpAddr>().map_or_else(|_| Self::Interface(text.to_owned()), Self::Address))
    }
}

/// What happened, for the log.
#[derive(Clone, Debug)]
pub enum BondNotice {
    /// A link's socket is open.
    LinkAdded {
        /// Local address and interface, as a person reads it.
        name: String,
    },
    /// A link is gone.
    LinkRemoved {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// A link could not be opened; tried again each second.
    LinkFailed {
        /// Which.
        name: String,
        /// The system's reason.
        error: String,
    },
    /// From the state machine, with the link's name: registered, link up, link suspect, ...
    Srtla {
        /// What happened.
        notice: SenderNotice,
        /// On which link.
        link: String,
        /// How the sender registers now.
        registration: Registration,
    },
}

/// One link as shown to the user.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// Local address and interface.
    pub name: String,
    /// Figures of the state machine.
    pub stats: LinkStats,
}

/// What the status callback gets.
#[derive(Clone, Debug)]
pub struct BondStatus {
    /// True when at least one link is registered.
    pub up: bool,
    /// How the sender registers.
    pub registration: Registration,
    /// What happened to all datagrams so far, and how often a key was not used.
    pub counters: SenderCounters,
    /// All links.
    pub links: Vec<LinkStatus>,
    /// Datagrams from the encoder since start.
    pub local_datagrams: u64,
}

#[derive(Debug)]
struct Link {
    name: String,
    label: LinkLabel,
    local: IpAddr,
    device: Option<String>,
    index: LinkIndex,
    socket: SocketId,
}

/// The bonding sender on real sockets.
pub struct Bond<B> {
    backend: B,
    sender: Sender,
    actions: SenderActions,
    receiver: SocketAddr,
    specs: Vec<LinkSpec>,
    links: Vec<Link>,
    /// Interfaces and addresses that were ever a link; the place is the label. A modem that comes back has its old one, so
    /// that at a receiver of keys it takes the place of what it left.
    labels: Vec<String>,
    failed: Vec<String>,
    /// Links whose fresh socket is asked for.
    rebinds: Vec<LinkIndex>,
    local: SocketId,
    encoder: Option<SocketAddr>,
    local_datagrams: u64,
    /// The turn's one reading of the clock.
    clock: Instant,
    socket_buffer_bytes: usize,
    notice: Box<dyn FnMut(BondNotice) + Send>,
}

impl<B: Backend> Bond<B> {
    /// `local` is the socket the encoder sends to; `receiver` the SRTLA receiver.
    ///
    /// # Errors
    /// What the backend says when it cannot take the local socket.
    pub fn new(
        mut backend: B,
        sender: Sender,
        local: UdpSocket,
        receiver: SocketAddr,
        specs: Vec<LinkSpec>,
        socket_buffer_bytes: usize,
        notice: impl FnMut(BondNotice) + Send + 'static,
    ) -> io::Result<Self> {
        let local = backend.add(local, Role::Unconnected)?;
        Ok(Self {
            backend,
            sender,
            actions: SenderActions::default(),
            receiver,
            specs,
            links: Vec::new(),
            labels: Vec::new(),
            failed: Vec::new(),
            rebinds: Vec::new(),
            local,
            encoder: None,
            local_datagrams: 0,
            clock: Instant::now(),
            socket_buffer_bytes,
            notice: Box::new(notice),
        })
    }

    /// Opens the links that can be opened now; returns how many there are.
    pub fn open_links(&mut self, now: Instant) -> usize {
        self.sync_links(now);
        self.links.len()
    }

    /// Turns until `stop` is set, or until the receiver has refused for good and no link is up (see
    /// [`Self::stopped_by`]). `status` is called each second.
    ///
    /// # Errors
    /// Only when the backend can no longer work.
    pub fn run(&mut self, stop: &AtomicBool, mut status: impl FnMut(BondStatus)) -> io::Result<()> {
        let (mut look_at, mut status_at) = (self.clock, self.clock + STATUS_EVERY);
        while !stop.load(Ordering::Relaxed) {
            self.turn()?;
            let now = self.clock;
            if now >= look_at {
                look_at = now + INTERFACES_EVERY;
                self.sync_links(now);
                self.sender.set_clock(wall_clock(now));
            }
            if self.sender.stopped_by().is_some() && !self.sender.is_up() {
                return Ok(());
            }
            if now >= status_at {
                status_at = now + STATUS_EVERY;
                status(self.status());
            }
        }
        Ok(())
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// Only when the backend can no longer work.
    pub fn turn(&mut self) -> io::Result<()> {
        // The last turn's reading will do: a turn is short, and what came meanwhile ends the wait at once.
        let wait = self.sender.poll_timeout().map_or(WAIT_MAX, |at| at.saturating_duration_since(self.clock));
        let received = self.backend.receive(Some(wait.min(WAIT_MAX)))?;
        let now = Instant::now();
        self.clock = now;
        self.backend.note_time(now);
        for index in 0..received {
            self.datagram(now, index);
        }
        while let Some((socket, error)) = self.backend.next_error() {
            if let Some(link) = self.links.iter().find(|l| l.socket == socket) {
                // ICMP errors say nothing about the path's other packets; only a dead local side does.
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    self.sender.handle_send_error(now, link.index);
                }
            }
        }
        if self.sender.poll_timeout().is_some_and(|at| at <= now) {
            self.sender.handle_timeout(now, &mut self.actions);
        }
        self.apply_actions(now);
        self.backend.flush();
        Ok(())
    }

    /// The refusal because of which no more links will come up.
    pub fn stopped_by(&self) -> Option<Refusal> {
        self.sender.stopped_by()
    }

    /// The state of all links.
    pub fn status(&self) -> BondStatus {
        let links = self
            .sender
            .links()
            .filter_map(|stats| {
                let link = self.links.iter().find(|l| l.index == stats.index)?;
                Some(LinkStatus { name: link.name.clone(), stats })
            })
            .collect();
        BondStatus {
            up: self.sender.is_up(),
            registration: self.sender.registration(),
            counters: *self.sender.counters(),
            links,
            local_datagrams: self.local_datagrams,
        }
    }

    fn datagram(&mut self, now: Instant, index: usize) {
        let datagram = self.backend.datagram(index);
        if datagram.socket == self.local {
            // Answers go to the encoder. Another address takes its place only by beginning a session of its own.
            let is_handshake = datagram.bytes.get(..2) == Some(&SRT_HANDSHAKE);
            if is_handshake || self.encoder.is_none() {
                self.encoder = Some(datagram.from);
            } else if self.encoder != Some(datagram.from) {
                return;
            }
            self.local_datagrams += 1;
            let verdict = self.sender.handle_local(now, datagram.bytes, &mut self.actions);
            if let SenderVerdict::ToLink(link) = verdict
                && let Some(link) = self.links.iter().find(|l| l.index == link)
            {
                self.backend.forward(index, link.socket, Some(self.receiver));
            }
        } else if datagram.from.port() == self.receiver.port()
            && datagram.from.ip().to_canonical() == self.receiver.ip().to_canonical()
        {
            let Some(link) = self.links.iter().find(|l| l.socket == datagram.socket) else { return };
            let verdict = self.sender.handle_link(now, link.index, datagram.bytes, &mut self.actions);
            if let (SenderVerdict::ToLocal, Some(encoder)) = (verdict, self.encoder) {
                self.backend.forward_first(index, self.sender.to_local_len(), self.local, Some(encoder));
            }
        }
        self.apply_actions(now);
    }

    fn apply_actions(&mut self, now: Instant) {
        if self.actions.is_empty() {
            return;
        }
        let registration = self.sender.registration();
        let Self { actions, backend, links, receiver, notice: tell, rebinds, .. } = self;
        let link_of = |index| links.iter().find(|l: &&Link| l.index == index);
        actions.drain(|action| match action {
            SenderAction::Send { link, bytes } => {
                if let Some(link) = link_of(link) {
                    backend.send(link.socket, Some(*receiver), bytes);
                }
            }
            SenderAction::Rebind { link } => rebinds.push(link),
            SenderAction::Notice(notice) => {
                let link = link_of(notice_link(notice)).map(|l| l.name.clone()).unwrap_or_default();
                tell(BondNotice::Srtla { notice, link, registration });
            }
        });
        while let Some(index) = self.rebinds.pop() {
            self.rebind(now, index);
        }
    }

    /// Opens a fresh socket for a link: a new source port gets through where a NAT has forgotten the old one.
    fn rebind(&mut self, now: Instant, index: LinkIndex) {
        let Some(at) = self.links.iter().position(|l| l.index == index) else { return };
        let (local, device) = (self.links[at].local, self.links[at].device.clone());
        if let Ok(socket) = self.open_socket(local, device) {
            let old = std::mem::replace(&mut self.links[at].socket, socket);
            self.backend.remove(old);
            self.sender.link_rebound(now, index, &mut self.actions);
            self.apply_actions(now);
        }
    }

    fn open_socket(&mut self, local: IpAddr, device: Option<String>) -> io::Result<SocketId> {
        let options = BindOptions { device, recv_buf: self.socket_buffer_bytes, ..BindOptions::default() };
        let socket = bind_udp(SocketAddr::new(local, 0), &options)?;
        // Unconnected on purpose: an ICMP error on a flapping path must not poison the next send.
        self.backend.add(socket, Role::Unconnected)
    }

    /// Compares what should be there with what is there.
    fn sync_links(&mut self, now: Instant) {
        let wanted = self.wanted();
        let gone: Vec<usize> = (0..self.links.len())
            .rev()
            .filter(|at| {
                let link = &self.links[*at];
                !wanted.iter().any(|(ip, device)| *ip == link.local && *device == link.device)
            })
            .collect();
        for at in gone {
            let link = self.links.swap_remove(at);
            self.sender.remove_link(now, link.index, &mut self.actions);
            self.backend.remove(link.socket);
            (self.notice)(BondNotice::LinkRemoved {
                name: link.name,
                reason: "its address is gone from the system".to_owned(),
            });
        }
        for (local, device) in wanted {
            if self.links.iter().any(|l| l.local == local && l.device == device) {
                continue;
            }
            let name = match &device {
                Some(device) => format!("{device} ({local})"),
                None => local.to_string(),
            };
            match self.open_socket(local, device.clone()) {
                Ok(socket) => {
                    let label =
                        self.label(device.as_deref().map_or_else(|| local.to_string(), str::to_owned));
                    let Some(index) = self.sender.add_link(now, label, &mut self.actions) else {
                        self.backend.remove(socket);
                        self.failed_once(name, "too many links");
                        continue;
                    };
                    self.failed.retain(|failed| *failed != name);
                    (self.notice)(BondNotice::LinkAdded { name: name.clone() });
                    self.links.push(Link { name, label, local, device, index, socket });
                }
                Err(error) => self.failed_once(name, &error.to_string()),
            }
        }
        self.apply_actions(now);
    }

    /// The label of the interface or address: the first one it ever had that no link has now, or a new one.
    fn label(&mut self, key: String) -> LinkLabel {
        let is_free = |at: usize| !self.links.iter().any(|link| link.label.0 as usize == at);
        let known = self.labels.iter().enumerate().find(|(at, label)| **label == key && is_free(*at));
        let at = known.map_or(self.labels.len(), |(at, _)| at);
        if at == self.labels.len() {
            self.labels.push(key);
        }
        LinkLabel(at as u32)
    }

    /// Says once that a link cannot be opened; it is tried again each second.
    fn failed_once(&mut self, name: String, error: &str) {
        if !self.failed.contains(&name) {
            (self.notice)(BondNotice::LinkFailed { name: name.clone(), error: error.to_owned() });
            self.failed.push(name);
        }
    }

    /// Local addresses (and the interface to bind to) that the specs mean at this moment.
    fn wanted(&self) -> Vec<(IpAddr, Option<String>)> {
        let family = self.receiver.ip();
        let fits = |ip: IpAddr| {
            ip.is_ipv4() == family.is_ipv4()
                && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
                && ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                && ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let mut wanted = Vec::new();
        for spec in &self.specs {
            if let LinkSpec::Address(ip) = spec {
                wanted.push((*ip, None));
            }
        }
        if self.specs.iter().any(|s| !matches!(s, LinkSpec::Address(_))) {
            for interface in interfaces().unwrap_or_default() {
                let named = self
                    .specs
                    .iter()
                    .any(|s| matches!(s, LinkSpec::Interface(name) if *name == interface.name));
                let auto = self.specs.contains(&LinkSpec::Auto) && !interface.addr.is_loopback();
                if interface.up && (named || auto) && fits(interface.addr) {
                    let entry = (interface.addr, Some(interface.name));
                    if !wanted.contains(&entry) {
                        wanted.push(entry);
                    }
                }
            }
        }
        wanted
    }
}

/// The time of day.
pub fn wall_clock(now: Instant) -> WallClock {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    WallClock { at: now, wall_ms: since_1970.map_or(0, |since| since.as_millis() as u64) }
}

/// The link an event is about.
fn notice_link(notice: SenderNotice) -> LinkIndex {
    match notice {
        SenderNotice::Registered { link }
        | SenderNotice::GroupLost { link }
        | SenderNotice::Refused { link, .. }
        | SenderNotice::Downgraded { link }
        | SenderNotice::KeyRetiring { link }
        | SenderNotice::LinkUp { link }
        | SenderNotice::LinkSuspect { link }
        | SenderNotice::LinkLost { link } => link,
    }
}

/// The way of registration as people read it.
pub fn registration_name(registration: Registration) -> &'static str {
    match registration {
        Registration::Stock => "stock",
        Registration::Undecided => "undecided",
        Registration::Sa1 => "sa1",
        Registration::Downgraded => "downgraded",
    }
}

/// A link state as people read it.
pub fn state_name(state: LinkState) -> &'static str {
    match state {
        LinkState::Idle => "idle",
        LinkState::Joining => "joining",
        LinkState::Live => "live",
        LinkState::Suspect => "suspect",
        LinkState::Lost => "lost",
    }
}
