//! Input bytes read as a sequence of operations and operands. What is missing at the end reads as zero.

/// The unread rest of an input.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next operation, `None` at the end.
    pub fn op(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u8(&mut self) -> u8 {
        self.op().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// A run of bytes that says its own length, as far as there are any.
    pub fn bytes(&mut self, len_max: usize) -> &'a [u8] {
        let len = (usize::from(self.u16()) % (len_max + 1)).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }
}
