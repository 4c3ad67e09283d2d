//! Bytes on their way to one client.
//!
//! Small packets are copied behind each other; a payload of [`SHARE_FROM`] bytes or more is shared between receivers
//! and written from where it lies. An idle buffer owns no memory.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;

use bytes::Bytes;

use super::seldom::Seldom;

/// Payloads of at least this many bytes are shared, smaller ones copied.
pub const SHARE_FROM: usize = 1024;

/// The same where there is one receiver, and nobody else has a copy: only what would make the buffer grow again and again.
pub const SHARE_WITH_NOBODY_FROM: usize = 32_768;

/// A queue of bytes with cheap appends and vectored writes.
#[derive(Debug, Default)]
pub struct SendBuffer {
    /// What goes out before `tail`.
    chunks: Seldom<VecDeque<Chunk>>,
    tail: Vec<u8>,
    /// Bytes of the first chunk (of `tail` where there is none) that are written already.
    written: usize,
    len: usize,
    /// What the last attempt to write left.
    unsent: usize,
    /// Bytes put in since somebody asked last.
    newly_appended: u64,
    /// Bytes written since somebody asked last.
    newly_written: u64,
}

#[derive(Debug)]
enum Chunk {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl SendBuffer {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Notes what an attempt to write has left, and gives what the last one had left.
    pub fn note_unsent(&mut self) -> usize {
        mem::replace(&mut self.unsent, self.len)
    }

    /// The peer did not take everything when it was last offered.
    pub fn is_behind(&self) -> bool {
        self.unsent > 0
    }

    /// Bytes of memory that its copied packets may take before it grows.
    pub fn capacity(&self) -> usize {
        self.tail.capacity()
    }

    /// Bytes that came since the last attempt to write.
    pub fn unoffered(&self) -> usize {
        self.len.saturating_sub(self.unsent)
    }

    /// Bytes put in since the last call.
    pub fn take_appended(&mut self) -> u64 {
        mem::take(&mut self.newly_appended)
    }

    /// How many slices hold all of it.
    pub fn pieces(&self) -> usize {
        self.chunks.len() + 1
    }

    /// Appends through `write`, which may only append.
    pub fn append<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.tail.len();
        let result = write(&mut self.tail);
        debug_assert!(self.tail.len() >= before, "a writer took bytes away");
        self.count(self.tail.len() - before);
        result
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.count(bytes.len());
    }

    /// Appends bytes that others send too, without a copy.
    pub fn share(&mut self, bytes: Bytes) {
        if !self.tail.is_empty() {
            self.chunks
                .push_back(Chunk::Owned(mem::take(&mut self.tail)));
        }
        self.count(bytes.len());
        self.chunks.push_back(Chunk::Shared(bytes));
    }

    /// The next bytes to write, as slices for one vectored write. Gives how many slices were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.slices_within(usize::MAX, slices)
    }

    /// The same, `limit` bytes at most.
    pub fn slices_within<'a>(&'a self, limit: usize, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut skip = self.written;
        let mut left = limit;
        for bytes in self.chunks.iter().map(Chunk::bytes).chain([&*self.tail]) {
            let unwritten = bytes.get(skip..).unwrap_or_default();
            let unwritten = unwritten.get(..left).unwrap_or(unwritten);
            skip = 0;
            left -= unwritten.len();
            if unwritten.is_empty() {
                continue;
            }
            let Some(slice) = slices.get_mut(filled) else {
                break;
            };
            *slice = IoSlice::new(unwritten);
            filled += 1;
        }
        filled
    }

    /// The unwritten bytes where they are one piece, which they nearly always are.
    pub fn as_single(&self) -> Option<&[u8]> {
        if self.chunks.is_empty() {
            self.tail.get(self.written..)
        } else {
            None
        }
    }

    /// Forgets `count` bytes that were written. An empty buffer gives its memory to `pool`.
    pub fn advance(&mut self, count: usize, pool: &mut BufferPool) {
        debug_assert!(count <= self.len, "more written than there was");
        self.newly_written += count as u64;
        self.len = self.len.saturating_sub(count);
        self.written += count;
        while let Some(first) = self.chunks.front() {
            let size = first.bytes().len();
            if self.written < size {
                return;
            }
            self.written -= size;
            if let Some(Chunk::Owned(buffer)) = self.chunks.pop_front() {
                pool.give(buffer);
            }
        }
        if self.len == 0 {
            self.written = 0;
            pool.give(mem::take(&mut self.tail));
            self.chunks = Seldom::default();
        } else if self.written > COMPACT_FROM && self.written * 2 > self.tail.len() {
            self.tail.drain(..self.written);
            self.written = 0;
        }
    }

    /// Forgets everything that was not written.
    pub fn discard(&mut self, pool: &mut BufferPool) {
        let written = self.newly_written;
        self.advance(self.len, pool);
        self.newly_written = written;
    }

    /// Bytes written since the last call.
    pub fn take_written(&mut self) -> u64 {
        mem::take(&mut self.newly_written)
    }

    fn count(&mut self, bytes: usize) {
        self.len += bytes;
        self.newly_appended += bytes as u64;
    }

    /// Makes sure that the next appends have a buffer from the pool to go to.
    pub fn borrow_from(&mut self, pool: &mut BufferPool) {
        if self.tail.capacity() == 0 {
            self.tail = pool.take();
        }
    }
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Empty buffers for the next connection that has something to send.
#[derive(Debug, Default)]
pub struct BufferPool {
    buffers: Vec<Vec<u8>>,
    /// Their capacity together.
    bytes: usize,
}

impl BufferPool {
    pub fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if (1..=POOLED_CAPACITY_MAX).contains(&capacity)
            && self.bytes + capacity <= POOLED_BYTES_MAX
        {
            buffer.clear();
            self.bytes += capacity;
            self.buffers.push(buffer);
        }
    }
}

const COMPACT_FROM: usize = 64 * 1024;
/// Twice what one read brings, and then some: larger ones would come from the system and go back to it each time.
const POOLED_CAPACITY_MAX: usize = 1024 * 1024;
const POOLED_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(buffer: &SendBuffer) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = buffer.slices(&mut slices);
        slices[..filled]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_whatever_the_cuts() {
        let mut pool = BufferPool::default();
        for cut in 1..12 {
            let mut buffer = SendBuffer::default();
            buffer.extend(b"abc");
            buffer.share(Bytes::from_static(b"defg"));
            buffer.share(Bytes::from_static(b"hi"));
            buffer.extend(b"jkl");
            let mut out = Vec::new();
            while !buffer.is_empty() {
                let next = written(&buffer);
                assert_eq!(next.len(), buffer.len());
                let count = cut.min(next.len());
                out.extend_from_slice(&next[..count]);
                buffer.advance(count, &mut pool);
            }
            assert_eq!(out, b"abcdefghijkl");
            assert!(written(&buffer).is_empty());
        }
    }

    #[test]
    fn no_more_is_offered_than_was_asked_for() {
        let mut buffer = SendBuffer::default();
        buffer.extend(b"abc");
        buffer.share(Bytes::from_static(b"defg"));
        buffer.extend(b"hij");
        for limit in 0..=10 {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = buffer.slices_within(limit, &mut slices);
            let offered: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            assert_eq!(offered, b"abcdefghij"[..limit]);
        }
    }

    #[test]
    fn an_idle_buffer_owns_no_memory() {
        let mut pool = BufferPool::default();
        let mut buffer = SendBuffer::default();
        buffer.extend(&[0; 100]);
        buffer.advance(100, &mut pool);
        assert_eq!(buffer.tail.capacity(), 0);
        assert!(pool.take().capacity() >= 100);
    }
}
