//! Memory of dropped chunks, to be used again: in steady state decoding faults in no page and returns none.
//!
//! Decompressed batches and indexes of records are made in a fetch loop's thread and dropped in the user's. An allocator would
//! give such blocks, some 100 kB each, back to the system again and again.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::record::RecordSpan;

/// Smaller blocks are the allocator's business.
const FROM_BYTES: usize = 16 << 10;
/// Larger ones are rare, and would hold much for long.
const UP_TO_BYTES: usize = 4 << 20;
const MAX_BLOCKS: usize = 16;
const MAX_BYTES: usize = 8 << 20;
/// A block that is less than this share full is copied to its size: whoever keeps a record keeps the block.
const LEAST_SHARE: usize = 4;

/// Free blocks of one fetch thread. Bounded in number and in bytes; what does not fit is freed.
#[derive(Debug, Default)]
pub(crate) struct Recycler {
    buffers: Mutex<Vec<Vec<u8>>>,
    spans: Mutex<Vec<Vec<RecordSpan>>>,
}

impl Recycler {
    /// An empty buffer, with capacity where one is free.
    pub fn buffer(&self) -> Vec<u8> {
        take(&self.buffers)
    }

    /// An empty index, likewise.
    pub fn spans(&self) -> Vec<RecordSpan> {
        take(&self.spans)
    }

    /// A finished buffer as shared bytes, which come back here with the last of them; and what they hold of the memory.
    pub fn share(self: &Arc<Self>, buffer: Vec<u8>) -> (Bytes, usize) {
        let buffer = self.fitted(buffer, &self.buffers);
        let retained = buffer.capacity();
        if retained < FROM_BYTES {
            return (Bytes::from(buffer), retained);
        }
        let recycler = Arc::downgrade(self);
        (Bytes::from_owner(Lent { buffer, recycler }), retained)
    }

    /// A finished index, not much larger than it is full.
    pub fn fit_spans(&self, spans: Vec<RecordSpan>) -> Vec<RecordSpan> {
        self.fitted(spans, &self.spans)
    }

    /// Takes an index back.
    pub fn give_spans(&self, spans: Vec<RecordSpan>) {
        give(&self.spans, spans);
    }

    fn fitted<T: Copy>(&self, block: Vec<T>, free: &Mutex<Vec<Vec<T>>>) -> Vec<T> {
        if block.len() >= block.capacity() / LEAST_SHARE {
            return block;
        }
        let copy = block.as_slice().to_vec();
        give(free, block);
        copy
    }
}

struct Lent {
    buffer: Vec<u8>,
    recycler: Weak<Recycler>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(recycler) = self.recycler.upgrade() {
            give(&recycler.buffers, std::mem::take(&mut self.buffer));
        }
    }
}

fn take<T>(free: &Mutex<Vec<Vec<T>>>) -> Vec<T> {
    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
    free.pop().unwrap_or_default()
}

fn give<T>(free: &Mutex<Vec<Vec<T>>>, mut block: Vec<T>) {
    let size = block.capacity() * size_of::<T>();
    if !(FROM_BYTES..=UP_TO_BYTES).contains(&size) {
        return;
    }
    block.clear();
    // Without waiting: in a forked child the lock may be held by a thread that is not there.
    let Ok(mut free) = free.try_lock() else {
        return;
    };
    let held: usize = free
        .iter()
        .map(|other| other.capacity() * size_of::<T>())
        .sum();
    if free.len() < MAX_BLOCKS && held + size <= MAX_BYTES {
        free.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 100_000;

    #[test]
    fn a_buffer_comes_back_with_the_last_of_its_bytes() {
        let recycler = Arc::new(Recycler::default());
        let mut buffer = Vec::with_capacity(LARGE);
        buffer.resize(LARGE, 7);
        let (bytes, retained) = recycler.share(buffer);
        assert_eq!(retained, LARGE);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(recycler.buffer().capacity(), 0);
        drop(part);
        let again = recycler.buffer();
        assert_eq!((again.len(), again.capacity()), (0, LARGE));
        assert_eq!(recycler.buffer().capacity(), 0);
    }

    #[test]
    fn a_block_that_is_mostly_empty_is_not_kept_by_the_few_bytes_in_it() {
        let recycler = Arc::new(Recycler::default());
        let mut buffer = Vec::with_capacity(LARGE);
        buffer.extend_from_slice(b"few");
        let (bytes, retained) = recycler.share(buffer);
        assert_eq!((&bytes[..], retained), (&b"few"[..], 3));
        assert_eq!(recycler.buffer().capacity(), LARGE);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let recycler = Arc::new(Recycler::default());
        for _ in 0..2 * MAX_BLOCKS {
            give(&recycler.buffers, Vec::with_capacity(1 << 20));
        }
        give(&recycler.buffers, Vec::with_capacity(UP_TO_BYTES + 1));
        give(&recycler.buffers, Vec::with_capacity(100));
        let kept: Vec<_> =
            std::iter::from_fn(|| Some(recycler.buffer()).filter(|b| b.capacity() > 0)).collect();
        assert_eq!(kept.len(), MAX_BYTES >> 20);
        assert!(kept.iter().all(|block| block.capacity() == 1 << 20));
    }

    #[test]
    fn a_block_can_be_dropped_although_the_recycler_stays_locked() {
        let recycler = Arc::new(Recycler::default());
        let (bytes, _) = recycler.share(vec![1; LARGE]);
        let _locked_for_ever_as_in_a_forked_child = recycler.buffers.lock().unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(bytes);
            done.send(())
        });
        assert!(
            is_done
                .recv_timeout(std::time::Duration::from_secs(20))
                .is_ok()
        );
    }

    #[test]
    fn bytes_outlive_the_recycler() {
        let recycler = Arc::new(Recycler::default());
        let (bytes, _) = recycler.share(vec![1; LARGE]);
        drop(recycler);
        assert_eq!(bytes.len(), LARGE);
    }
}
