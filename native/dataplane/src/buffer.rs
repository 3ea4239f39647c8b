//! What was fetched and waits for `poll`: first in, first out, bounded in bytes after decompression.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::error::DecodeError;
use crate::record::Chunk;

/// Why a partition cannot go on.
#[derive(Clone)]
pub enum Failure {
    /// Its bytes.
    Decode {
        /// What is wrong with them.
        error: Arc<DecodeError>,
        /// The offset after the batch, where its header tells it.
        past: Option<i64>,
    },
    /// Something that the data plane was given and hands back: an error of Python's.
    Foreign(Arc<dyn Any + Send + Sync>),
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decode { error, .. } => formatter.debug_tuple("Decode").field(error).finish(),
            Self::Foreign(_) => formatter.write_str("Foreign"),
        }
    }
}

/// One step of a partition's way through its log.
#[derive(Debug)]
pub(crate) enum Item {
    /// Records from `cursor` on; `next_offset` is the position once all of them were returned.
    Records {
        chunk: Arc<Chunk>,
        cursor: usize,
        next_offset: i64,
    },
    /// No record for the user up to `next_offset`: control batches, aborted or compacted records. `leader_epoch` is that of the
    /// last of them.
    Marker { next_offset: i64, leader_epoch: i32 },
    /// Here the partition ends until somebody seeks.
    Failure(Failure),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub handle: u64,
    /// The partition's epoch when this was fetched. Entries of an older epoch are removed when it begins; whoever takes
    /// from the front compares nevertheless.
    pub epoch: u64,
    pub item: Item,
}

impl Entry {
    /// What it counts for in the budget: nothing is forgotten of a chunk before its last record was returned.
    pub fn bytes(&self) -> usize {
        match &self.item {
            Item::Records { chunk, .. } => chunk.memory_bytes(),
            // Little, but not nothing: a log of aborted transactions gives markers without end while nobody polls.
            Item::Marker { .. } => size_of::<Self>(),
            Item::Failure(_) => 0,
        }
    }

    pub fn records(&self) -> usize {
        match &self.item {
            Item::Records { chunk, cursor, .. } => chunk.len().saturating_sub(*cursor),
            Item::Marker { .. } | Item::Failure(_) => 0,
        }
    }
}

/// Entries that nobody wants. Dropped without the table's lock: a failure may hold an error of Python's, which keeps frames alive
/// whose objects' finalizers may call anything, and a chunk gives back memory.
pub(crate) type Removed = VecDeque<Entry>;

/// The line. Its bound is `budget_bytes`; whoever finds no room waits (see `has_room`). Paused partitions' entries are
/// parked beside it and count for nothing: a paused partition could block all others else.
#[derive(Debug)]
pub(crate) struct Buffer {
    line: VecDeque<Entry>,
    parked: HashMap<u64, VecDeque<Entry>>,
    bytes: usize,
    records: usize,
    budget_bytes: usize,
}

impl Buffer {
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            line: VecDeque::new(),
            parked: HashMap::new(),
            bytes: 0,
            records: 0,
            budget_bytes,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn records(&self) -> usize {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Half the budget free is room for anything: else an entry above the budget would never find any, and a large one
    /// would wait as long as small ones keep coming.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.is_low() || self.bytes.saturating_add(bytes) <= self.budget_bytes
    }

    pub fn is_low(&self) -> bool {
        self.bytes <= self.budget_bytes / 2
    }

    pub fn push(&mut self, entry: Entry) {
        if let Some(parked) = self.parked.get_mut(&entry.handle) {
            parked.push_back(entry);
            return;
        }
        self.count(&entry);
        self.line.push_back(entry);
    }

    pub fn front(&mut self) -> Option<&mut Entry> {
        self.line.front_mut()
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.line.pop_front()?;
        self.uncount(&entry);
        Some(entry)
    }

    /// Takes note that `records` of the front entry were returned.
    pub fn returned(&mut self, records: usize) {
        self.records = self.records.saturating_sub(records);
    }

    /// From now on these partitions' entries stand aside. One walk along the line, however many partitions they are.
    pub fn park(&mut self, handles: &[u64]) {
        for &handle in handles {
            self.parked.entry(handle).or_default();
        }
        let parked = std::mem::take(&mut self.parked);
        let aside = self.extract(|entry| parked.contains_key(&entry.handle));
        self.parked = parked;
        for entry in aside {
            self.parked
                .entry(entry.handle)
                .or_default()
                .push_back(entry);
        }
    }

    /// Back to the front, in order: they are older than whatever came since.
    pub fn unpark(&mut self, handle: u64) {
        for entry in self.parked.remove(&handle).into_iter().flatten().rev() {
            self.count(&entry);
            self.line.push_front(entry);
        }
    }

    /// Takes out a partition's entries, parked or not; whether it is parked stays.
    #[must_use]
    pub fn remove(&mut self, handle: u64) -> Removed {
        let mut removed = self.extract(|entry| entry.handle == handle);
        if let Some(parked) = self.parked.get_mut(&handle) {
            removed.append(parked);
        }
        removed
    }

    /// Takes out all of these partitions' entries, their being parked included.
    #[must_use]
    pub fn forget(&mut self, handles: &HashSet<u64>) -> Removed {
        let mut removed = self.extract(|entry| handles.contains(&entry.handle));
        for handle in handles {
            removed.extend(self.parked.remove(handle).into_iter().flatten());
        }
        removed
    }

    /// Replaces the failure of a partition where one is in line; the one before.
    #[must_use]
    pub fn replace_failure(&mut self, handle: u64, failure: &Failure) -> Option<Failure> {
        let entries = self
            .line
            .iter_mut()
            .chain(self.parked.values_mut().flatten());
        for entry in entries {
            if let (true, Item::Failure(old)) = (entry.handle == handle, &mut entry.item) {
                return Some(std::mem::replace(old, failure.clone()));
            }
        }
        None
    }

    pub fn clear(&mut self) {
        self.line.clear();
        self.parked.clear();
        (self.bytes, self.records) = (0, 0);
    }

    fn extract(&mut self, mut wanted: impl FnMut(&Entry) -> bool) -> VecDeque<Entry> {
        let (taken, kept) = std::mem::take(&mut self.line)
            .into_iter()
            .partition::<VecDeque<_>, _>(|entry| wanted(entry));
        self.line = kept;
        for entry in &taken {
            self.uncount(entry);
        }
        taken
    }

    fn count(&mut self, entry: &Entry) {
        self.bytes += entry.bytes();
        self.records += entry.records();
    }

    fn uncount(&mut self, entry: &Entry) {
        self.bytes = self.bytes.saturating_sub(entry.bytes());
        self.records = self.records.saturating_sub(entry.records());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(handle: u64, next_offset: i64) -> Entry {
        let item = Item::Marker {
            next_offset,
            leader_epoch: 0,
        };
        Entry {
            handle,
            epoch: 1,
            item,
        }
    }

    fn drain(buffer: &mut Buffer) -> Vec<(u64, i64)> {
        let entries = std::iter::from_fn(|| buffer.pop());
        let numbers = entries.filter_map(|entry| match entry.item {
            Item::Marker { next_offset, .. } => Some((entry.handle, next_offset)),
            _ => None,
        });
        numbers.collect()
    }

    #[test]
    fn parked_entries_count_for_nothing_and_come_back_first() {
        let mut buffer = Buffer::new(1000);
        for entry in [marker(1, 1), marker(2, 1), marker(1, 2)] {
            buffer.push(entry);
        }
        let one = marker(1, 1).bytes();
        assert_eq!(buffer.bytes(), 3 * one);
        buffer.park(&[1]);
        buffer.park(&[1]);
        assert_eq!(buffer.bytes(), one);
        buffer.push(marker(1, 3));
        buffer.push(marker(2, 2));
        assert_eq!(buffer.bytes(), 2 * one);
        buffer.unpark(1);
        assert_eq!(buffer.bytes(), 5 * one);
        assert_eq!(drain(&mut buffer), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]);
        assert_eq!(buffer.bytes(), 0);
    }

    #[test]
    fn what_is_removed_is_gone_from_both_places() {
        let mut buffer = Buffer::new(1000);
        buffer.push(marker(1, 1));
        buffer.push(marker(2, 1));
        buffer.park(&[1]);
        assert_eq!(buffer.remove(1).len(), 1);
        buffer.push(marker(1, 2));
        buffer.unpark(1);
        assert_eq!(drain(&mut buffer), [(1, 2), (2, 1)]);
        buffer.park(&[3]);
        buffer.push(marker(3, 1));
        buffer.push(marker(4, 1));
        assert_eq!(buffer.forget(&HashSet::from([3, 4])).len(), 2);
        assert_eq!(buffer.bytes(), 0);
        buffer.push(marker(3, 2));
        assert_eq!(drain(&mut buffer), [(3, 2)]);
    }

    #[test]
    fn a_low_buffer_has_room_for_anything() {
        let mut buffer = Buffer::new(4 * marker(1, 1).bytes());
        assert!(buffer.has_room(usize::MAX));
        for _ in 0..3 {
            buffer.push(marker(1, 1));
        }
        let one = marker(1, 1).bytes();
        assert!(buffer.has_room(one));
        assert!(!buffer.has_room(one + 1));
        buffer.pop();
        assert!(buffer.has_room(usize::MAX));
    }
}
