//! Datagrams that have no business there, beside a load: registrations of nobody, data of strangers.
//!
//! Promise: bounded by a rate or by the loop, and never to any address but the receiver's.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::Result;
use bondgate_io::SocketId;

use crate::far_end::FarEnd;
use crate::frame::{LEN_USUAL, Stamp, Template};
use crate::scenario::{Flood, FloodKind};
use crate::topology::Ground;

/// Datagrams sent in one go at most.
const OFFER_MAX: u64 = 64;
/// Groups before the flood's first address: its sources are not the load's.
pub const FIRST_SOURCE: u32 = 60_000;

/// A flood.
#[derive(Debug)]
pub struct Flooder {
    flood: Flood,
    to: SocketAddr,
    sockets: Vec<SocketId>,
    template: Template,
    rng: fastrand::Rng,
    start: Option<Instant>,
    /// Datagrams sent.
    pub sent: u64,
}

impl Flooder {
    /// Opens the flood's sockets and puts it into the loop. It begins at once.
    ///
    /// # Errors
    /// When the kernel refuses the sockets.
    pub fn start(far_end: &mut FarEnd, ground: &Ground, flood: Flood) -> Result<()> {
        let sockets = ground
            .stranger_sockets(FIRST_SOURCE, flood.sources.clamp(1, 4096))?
            .into_iter()
            .map(|socket: UdpSocket| far_end.add_socket(socket))
            .collect::<Result<Vec<_>>>()?;
        far_end.flood = Some(Self {
            flood,
            to: ground.receiver,
            sockets,
            template: Template::new(LEN_USUAL, 0xdead),
            rng: fastrand::Rng::with_seed(7),
            start: None,
            sent: 0,
        });
        Ok(())
    }

    /// Sends what is due.
    pub fn send_due(&mut self, now: Instant, mut send: impl FnMut(SocketId, SocketAddr, &[u8])) {
        let start = *self.start.get_or_insert(now);
        let due = match self.flood.rate_pps {
            0 => OFFER_MAX,
            rate => (now.duration_since(start).as_secs_f64() * rate as f64) as u64 - self.sent,
        };
        for _ in 0..due.min(OFFER_MAX) {
            let index = (self.sent % self.sockets.len().max(1) as u64) as usize;
            let Some(&socket) = self.sockets.get(index) else { return };
            let mut packet = [0; 258];
            let kind = match (self.flood.kind, self.sent % 3) {
                (FloodKind::Mixed, 0) => FloodKind::Data,
                (FloodKind::Mixed, 1) => FloodKind::Reg1,
                (FloodKind::Mixed, _) => FloodKind::Reg2,
                (kind, _) => kind,
            };
            let bytes = match kind {
                FloodKind::Data => {
                    let stamp = Stamp { group: 9, number: self.sent, intended_ns: 0 };
                    self.template.fill(&stamp, self.sent as u32)
                }
                kind => {
                    packet.fill_with(|| self.rng.u8(..));
                    let [first, second, ..] = &mut packet;
                    (*first, *second) = (0x92, u8::from(kind == FloodKind::Reg2));
                    &packet
                }
            };
            send(socket, self.to, bytes);
            self.sent += 1;
        }
    }
}
