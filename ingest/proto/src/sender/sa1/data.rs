//! MACs on SRT packets: what leaves as a sealed copy, and what arrives without its trailer.
//!
//! Promise: where MACs are required, or were agreed on, nothing leaves and nothing is believed without.

use bondgate_auth::sa1::trailer::TRAILER_LEN;

use super::handshake::{Handshake, Trailers};
use crate::sender::{LinkIndex, Sender, SenderActions, SenderDropReason, SenderVerdict};
use crate::wire::{Datagram, classify};

impl Sender {
    /// Sends a packet of the encoder over a link: as it is, by the verdict, or as a sealed copy.
    pub(in crate::sender) fn carry(
        &mut self,
        slot: usize,
        bytes: &[u8],
        out: &mut SenderActions,
    ) -> SenderVerdict {
        let index = LinkIndex(slot as u8);
        if !self.has_data_macs(slot) {
            return SenderVerdict::ToLink(index);
        }
        let sealer = self.handshake(slot).and_then(Handshake::trailers_mut).and_then(Trailers::data_sealer);
        let Some(sealer) = sealer.filter(|sealer| sealer.takes(bytes.len())) else {
            return SenderVerdict::Drop(SenderDropReason::TrailerRoom);
        };
        if !out.send_sealed(index, bytes, TRAILER_LEN, |sealed| sealer.seal(sealed)) {
            return SenderVerdict::Drop(SenderDropReason::ActionsFull);
        }
        self.counters.sealed_sent += 1;
        SenderVerdict::Consumed
    }

    /// Sends another copy of a packet of the encoder over a link.
    pub(in crate::sender) fn copy_over(
        &mut self,
        slot: usize,
        bytes: &[u8],
        out: &mut SenderActions,
    ) -> bool {
        match self.carry(slot, bytes, out) {
            SenderVerdict::ToLink(link) => out.send(link, bytes),
            verdict => verdict == SenderVerdict::Consumed,
        }
    }

    /// A datagram of the receiver, without the trailer if it is SRT on a link where that has one; `None` unless the
    /// trailer is right.
    pub(in crate::sender) fn proven_srt<'a>(&mut self, slot: usize, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if !self.has_data_macs(slot)
            || !matches!(classify(bytes), Datagram::SrtData(_) | Datagram::SrtControl(_))
        {
            return Some(bytes);
        }
        let now_us = self.now_us;
        self.handshake(slot)?.trailers_mut()?.open_data(now_us, bytes)
    }

    /// SRT packets of this link carry trailers, or must.
    fn has_data_macs(&self, slot: usize) -> bool {
        let Some(sa1) = &self.sa1 else { return false };
        self.has_key_in_use()
            && (sa1.requires_data_mac() || sa1.link(slot).is_some_and(Handshake::seals_data))
    }
}
