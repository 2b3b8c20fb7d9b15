//! A buffer whose alignment makes the kernel's copies fast.

use std::ops::{Deref, DerefMut};

/// The size of a cache line on x86-64, in bytes. The alignment matters only there, for `rep movsb`.
const ALIGNMENT: usize = 64;

/// A buffer of zeros that begins at a cache line.
///
/// glibc's own large allocations begin 16 bytes into a page. AMD's Zen takes three times as long to copy the pages of
/// a pipe into such a buffer, because `rep movsb` is slow if the destination is a few bytes further into its page than
/// the source. docs/decisions.md has the measurement.
///
/// The system allocates a page of the buffer only when the page is first written to.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    pub(crate) fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT - 1];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self {
            memory,
            start,
            length,
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_any_length_begins_at_a_cache_line() {
        for length in [0, 1, 63, 64, 65, 64 * 1024, 256 * 1024] {
            let mut buffer = AlignedBuffer::new(length);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(buffer.len(), length);
            buffer.fill(1);
            assert!(buffer.iter().all(|byte| *byte == 1));
        }
    }
}
