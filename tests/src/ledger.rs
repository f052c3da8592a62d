//! Was everything that was sent received, once, in order, bit-exact?
//!
//! A viewer that joins late misses the beginning and nothing else, so a recording must be one contiguous piece of what
//! was sent. The report of a failure says where the pieces part and how much is missing or doubled there.

use std::ops::Range;

use anyhow::{Result, bail};

/// Bytes of a transport stream packet.
pub const TS_PACKET_LEN: usize = 188;

/// Finds a recording in what was sent, as one piece.
///
/// Returns the range of `sent` that was recorded.
///
/// # Errors
/// When the recording is shorter than ten packets, or is not a contiguous piece of `sent`; the text says where they part.
pub fn contiguous(sent: &[u8], recorded: &[u8]) -> Result<Range<usize>> {
    if recorded.len() < 10 * TS_PACKET_LEN {
        bail!("only {} bytes were recorded", recorded.len());
    }
    let needle = &recorded[..4 * TS_PACKET_LEN];
    let (start, len) = positions(sent, needle)
        .map(|start| (start, common_prefix(&sent[start..], recorded)))
        .max_by_key(|&(start, len)| (len, std::cmp::Reverse(start)))
        .ok_or_else(|| anyhow::anyhow!("the first packets of the recording were never sent"))?;
    if len == recorded.len() {
        return Ok(start..start + len);
    }
    let whole = len / TS_PACKET_LEN * TS_PACKET_LEN;
    let lost_at = start + whole;
    let rest = &recorded[whole..];
    let what = match rest.get(..4 * TS_PACKET_LEN).and_then(|needle| positions(sent, needle).next()) {
        Some(resumed) if resumed >= lost_at => format!("{} bytes are missing", resumed - lost_at),
        Some(resumed) => format!("it jumps back by {} bytes", lost_at - resumed),
        None => "what follows was never sent in this form".to_owned(),
    };
    bail!(
        "the recording ({} bytes) parts from what was sent ({} bytes) after {whole} bytes, at packet {} of the stream: {what}",
        recorded.len(),
        sent.len(),
        lost_at / TS_PACKET_LEN
    )
}

/// Fails unless the recording is the end of `sent`, up to the last byte, and begins within its first `head_bytes_max` bytes.
///
/// # Errors
/// When it is not.
pub fn complete(sent: &[u8], recorded: &[u8], head_bytes_max: usize) -> Result<()> {
    let range = contiguous(sent, recorded)?;
    let (head, tail) = (range.start, sent.len() - range.end);
    if head > head_bytes_max || tail > 0 {
        bail!(
            "the recording is a contiguous piece, but misses the first {head} (at most {head_bytes_max}) and the last {tail} \
             of {} bytes",
            sent.len()
        );
    }
    Ok(())
}

fn positions<'a>(sent: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    (0..=sent.len().saturating_sub(needle.len()))
        .step_by(TS_PACKET_LEN)
        .filter(move |&at| sent.get(at..at + needle.len()) == Some(needle))
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::synthetic_ts;

    #[test]
    fn a_late_viewer_has_a_contiguous_piece() {
        let sent = synthetic_ts(1000, 1);
        let recorded = &sent[300 * TS_PACKET_LEN..];
        assert_eq!(contiguous(&sent, recorded).unwrap(), 300 * TS_PACKET_LEN..sent.len());
        complete(&sent, recorded, 300 * TS_PACKET_LEN).unwrap();
        assert!(complete(&sent, recorded, 299 * TS_PACKET_LEN).is_err());
        assert!(complete(&sent, &sent[..999 * TS_PACKET_LEN], 0).is_err());
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let sent = synthetic_ts(1000, 1);
        let at = 500 * TS_PACKET_LEN;
        let lost = [&sent[..at], &sent[at + 7 * TS_PACKET_LEN..]].concat();
        assert!(contiguous(&sent, &lost).unwrap_err().to_string().contains("1316 bytes are missing"));
        let doubled = [&sent[..at], &sent[at - TS_PACKET_LEN..]].concat();
        assert!(contiguous(&sent, &doubled).unwrap_err().to_string().contains("jumps back by 188 bytes"));
        let mut flipped = sent.clone();
        flipped[at + 100] ^= 1;
        assert!(contiguous(&sent, &flipped).unwrap_err().to_string().contains("packet 500"));
        let mut swapped = sent.clone();
        let (left, right) = swapped.split_at_mut(at + TS_PACKET_LEN);
        left[at..].swap_with_slice(&mut right[..TS_PACKET_LEN]);
        assert!(contiguous(&sent, &swapped).is_err());
        assert!(contiguous(&sent, &synthetic_ts(1000, 2)).is_err());
        assert!(contiguous(&sent, &sent[..TS_PACKET_LEN]).is_err());
    }
}
