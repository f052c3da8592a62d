//! Loss lists (NAK bodies): single numbers, and ranges whose first word has the top bit set.

use super::WireError;
use crate::seq::Seq;

const RANGE: u32 = 0x8000_0000;

/// Iterates over the ranges of a received loss list as `(first, last)`, both included; a single number gives
/// `first == last`. Stops after the first error.
#[derive(Clone, Debug)]
pub struct LossList<'a> {
    rest: &'a [u8],
}

impl<'a> LossList<'a> {
    /// Over the body of a NAK; bytes after the last whole word are ignored.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been iterated yet, as on the wire.
    pub fn bytes(&self) -> &'a [u8] {
        self.rest
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*word))
    }
}

impl Iterator for LossList<'_> {
    type Item = Result<(Seq, Seq), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.word()?;
        if first & RANGE == 0 {
            return Some(Ok((Seq::new(first), Seq::new(first))));
        }
        let range = match self.word() {
            None => Err(WireError::Truncated),
            Some(last) if last & RANGE != 0 || Seq::new(last).is_before(Seq::new(first)) => {
                Err(WireError::BadValue)
            }
            Some(last) => Ok((Seq::new(first), Seq::new(last))),
        };
        if range.is_err() {
            self.rest = &[];
        }
        Some(range)
    }
}

/// Writes a loss list, joining neighbours into ranges.
#[derive(Debug)]
pub struct LossListWriter<'a> {
    out: &'a mut [u8],
    len: usize,
    open: Option<(Seq, Seq)>,
}

impl<'a> LossListWriter<'a> {
    /// Writes into `out`, at most as many words as fit.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0, open: None }
    }

    /// Adds a number, which must lie after those added before. `false` when there is no room: it was not added.
    pub fn push(&mut self, seq: Seq) -> bool {
        if let Some((first, last)) = self.open {
            if last.next() == seq {
                self.open = Some((first, seq));
                return true;
            }
            // Room for the closed range and for a range of the new number.
            let closed = if first == last { 4 } else { 8 };
            if self.len + closed + 8 > self.out.len() {
                return false;
            }
            self.close();
        } else if self.out.len() < 8 {
            return false;
        }
        self.open = Some((seq, seq));
        true
    }

    fn close(&mut self) {
        if let Some((first, last)) = self.open.take() {
            let words = [first.get() | if first == last { 0 } else { RANGE }, last.get()];
            let count = if first == last { 1 } else { 2 };
            if let Some(len) =
                self.out.get_mut(self.len..).and_then(|out| super::put_words(out, &words[..count]))
            {
                self.len += len;
            }
        }
    }

    /// Bytes written.
    pub fn finish(mut self) -> usize {
        self.close();
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vector_single_range_single() {
        // As libsrt writes it: 5 | 7..9 | 2^31-1
        let body = [0, 0, 0, 5, 0x80, 0, 0, 7, 0, 0, 0, 9, 0x7F, 0xFF, 0xFF, 0xFF];
        let ranges: Vec<_> = LossList::new(&body).map(|r| r.map(|(a, b)| (a.get(), b.get()))).collect();
        assert_eq!(ranges, [Ok((5, 5)), Ok((7, 9)), Ok((0x7FFF_FFFF, 0x7FFF_FFFF))]);
    }

    #[test]
    fn malformed_lists_stop() {
        let last_before_first = [0x80, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 1];
        assert_eq!(LossList::new(&last_before_first).collect::<Vec<_>>(), [Err(WireError::BadValue)]);
        let no_last = [0x80, 0, 0, 9];
        assert_eq!(LossList::new(&no_last).collect::<Vec<_>>(), [Err(WireError::Truncated)]);
        let second_marked = [0x80, 0, 0, 9, 0x80, 0, 0, 10];
        assert_eq!(LossList::new(&second_marked).collect::<Vec<_>>(), [Err(WireError::BadValue)]);
        assert_eq!(LossList::new(&[1, 2, 3]).count(), 0);
    }

    proptest! {
        #[test]
        fn written_lists_read_back(start in 0u32..=Seq::MAX, gaps in prop::collection::vec(1u32..4, 1..300), room in 8usize..600) {
            let mut buf = vec![0u8; room];
            let mut writer = LossListWriter::new(&mut buf);
            let mut seq = Seq::new(start);
            let mut taken = Vec::new();
            for gap in gaps {
                seq = seq.add(gap);
                if !writer.push(seq) { break; }
                taken.push(seq);
            }
            let len = writer.finish();
            let mut read = Vec::new();
            for range in LossList::new(&buf[..len]) {
                let (first, last) = range.unwrap();
                for i in 0..=last.distance(first) { read.push(first.add(i as u32)); }
            }
            prop_assert_eq!(read, taken);
        }
    }
}
