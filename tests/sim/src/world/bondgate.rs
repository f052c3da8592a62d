//! bondgate's own sender core as a [`BondingSender`], so that worlds treat it like the stock ones.

use std::time::Instant;

use bondgate_proto::sender::{
    LinkIndex, LinkLabel, LinkState, LinkStats, Sa1Config, Sender, SenderAction, SenderActions, SenderConfig,
    SenderVerdict,
};

use crate::rng::Rng;
use crate::stock::{BondingSender, Output};

/// The adapter: verdicts become copies, actions become outputs.
pub struct BondgateSender {
    sender: Sender,
    actions: SenderActions,
    links: Vec<LinkIndex>,
    links_wanted: usize,
    started: Instant,
}

impl BondgateSender {
    /// A sender over `links` links that starts at `now`.
    pub fn new(now: Instant, config: SenderConfig, links: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self::of(Sender::new(config, rng.bytes(), rng.next_u64()), now, links)
    }

    /// The same with a key.
    pub fn with_key(now: Instant, config: SenderConfig, links: usize, seed: u64, key: Sa1Config) -> Self {
        Self::of(Sender::with_key(config, seed, key), now, links)
    }

    fn of(sender: Sender, now: Instant, links: usize) -> Self {
        Self {
            sender,
            actions: SenderActions::with_capacity(256, 64 * 1024),
            links: Vec::new(),
            links_wanted: links,
            started: now,
        }
    }

    /// Figures of the links.
    pub fn link_stats(&self) -> Vec<LinkStats> {
        self.sender.links().collect()
    }

    fn index_of(&self, link: LinkIndex) -> Option<usize> {
        self.links.iter().position(|&l| l == link)
    }

    fn drain(&mut self, now: Instant, out: &mut Vec<Output>) {
        while !self.actions.is_empty() {
            let Self { actions, links, .. } = self;
            let mut rebound = Vec::new();
            actions.drain(|action| match action {
                SenderAction::Send { link, bytes } => {
                    let index = links.iter().position(|&l| l == link);
                    out.extend(index.map(|link| Output::ToLink { link, bytes: bytes.to_vec() }));
                }
                SenderAction::Rebind { link } => rebound.push(link),
                SenderAction::Notice(_) => {}
            });
            for link in rebound {
                out.extend(self.index_of(link).map(Output::NewSocket));
                self.sender.link_rebound(now, link, &mut self.actions);
            }
        }
    }
}

impl BondingSender for BondgateSender {
    fn handle_local(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Output>) {
        let verdict = self.sender.handle_local(now, bytes, &mut self.actions);
        if let SenderVerdict::ToLink(link) = verdict
            && let Some(link) = self.index_of(link)
        {
            out.push(Output::ToLink { link, bytes: bytes.to_vec() });
        }
        self.drain(now, out);
    }

    fn handle_link(&mut self, now: Instant, link: usize, bytes: &[u8], out: &mut Vec<Output>) {
        let Some(&index) = self.links.get(link) else { return };
        let verdict = self.sender.handle_link(now, index, bytes, &mut self.actions);
        if verdict == SenderVerdict::ToLocal {
            out.push(Output::ToLocal(bytes[..self.sender.to_local_len()].to_vec()));
        }
        self.drain(now, out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        while self.links.len() < self.links_wanted {
            let label = LinkLabel(self.links.len() as u32);
            let Some(index) = self.sender.add_link(now, label, &mut self.actions) else {
                self.links_wanted = self.links.len();
                break;
            };
            self.links.push(index);
        }
        self.sender.handle_timeout(now, &mut self.actions);
        self.drain(now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.links.len() < self.links_wanted { Some(self.started) } else { self.sender.poll_timeout() }
    }

    fn links_up(&self, _now: Instant) -> usize {
        self.sender.links().filter(|link| link.state == LinkState::Live).count()
    }

    fn violation(&self) -> Option<String> {
        let counters = self.sender.counters();
        let conserved = counters.is_conserved() && self.actions.overflowed() == 0;
        (!conserved).then(|| format!("the sender does not conserve datagrams: {counters:?}"))
    }

    fn name(&self) -> &'static str {
        "bondgate"
    }
}
