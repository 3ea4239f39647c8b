//! The partitions, which broker each is fetched from, and the buffer: all that the engine's thread, the user's thread and
//! the connections' threads share, behind one lock that nobody holds while waiting, reading or decoding.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::node::Node;
use super::request::Wanted;
use crate::buffer::{Buffer, Entry, Failure, Item, Removed};
use crate::record::Chunk;
use crate::signal::Signal;

/// No offset, no leader, no epoch.
pub(crate) const NONE: i32 = -1;
const UNKNOWN: i64 = -1;

/// One partition of the assignment. Written under the table's lock: by the engine's thread (assign, seek, leader, pause),
/// by the fetch loop that has it (fetch offset, marks of the log), by the user's thread (consumed). Whoever changes what a
/// request would say of it calls `Table::touch`, or its loop would not hear of it.
#[derive(Debug)]
pub(crate) struct Partition {
    pub topic: Arc<str>,
    pub topic_id: [u8; 16],
    pub number: i32,
    /// What the maker of the partition wants back with its records.
    pub context: Arc<dyn Any + Send + Sync>,
    /// Grows with every seek; no two partitions, and no two seeks, have the same.
    pub epoch: u64,
    pub leader: i32,
    pub leader_epoch: i32,
    /// The follower that is fetched from in place of the leader (KIP-392), or -1.
    pub read_replica: i32,
    /// The node in whose order it stands, and its rank there.
    place: (i32, u64),
    /// What to ask for next; -1 without a position.
    pub fetch_offset: i64,
    /// The leader epoch of the last record before it; -1 where not known.
    pub fetch_epoch: i32,
    /// What `poll` returns next; -1 without a position.
    pub consumed_offset: i64,
    /// The leader epoch of the last batch that `poll` went past.
    pub consumed_epoch: i32,
    pub is_paused: bool,
    /// After an error code, until the engine has dealt with it.
    pub is_suspended: bool,
    /// After the leader's log turned out to be another one, until a seek.
    pub is_diverged: bool,
    /// After bytes that cannot be decoded, or `fail`, until a seek.
    pub is_failed: bool,
    /// The headers of an answer make no sense; its decoder will say so behind the records that stand before.
    pub awaits_failure: bool,
    /// The fetch loop that has an answer for it and isn't done. While it is set, no other loop may fetch on: a new leader's
    /// records could overtake those that the old leader sent, which wait for room in the buffer.
    pub decoded_by: Option<u64>,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// What `poll` has handed out of it: records, and bytes of their keys and values.
    pub records_returned: u64,
    pub bytes_returned: u64,
}

impl Partition {
    /// The node to fetch from; -1 for none.
    pub fn source(&self) -> i32 {
        match self.read_replica {
            replica @ 0.. if self.leader >= 0 => replica,
            _ => self.leader,
        }
    }

    fn is_fetchable_by(&self, rider: u64) -> bool {
        self.fetch_offset >= 0
            && !self.is_paused
            && !self.is_suspended
            && !self.is_diverged
            && !self.is_failed
            && !self.awaits_failure
            && self.decoded_by.is_none_or(|owner| owner == rider)
    }

    fn consumed(&mut self, next_offset: i64, leader_epoch: i32) {
        // A rollback of a fetch loop may bring a marker that lies behind.
        if next_offset > self.consumed_offset {
            self.consumed_offset = next_offset;
            self.consumed_epoch = leader_epoch;
        }
    }
}

/// Records that `poll` takes out: `chunk[start..end]`.
pub struct Taken {
    /// The partition's handle.
    pub handle: u64,
    /// The context given to `assign`.
    pub context: Arc<dyn Any + Send + Sync>,
    /// Where the records are.
    pub chunk: Arc<Chunk>,
    /// Index of the first one.
    pub start: usize,
    /// Index after the last one.
    pub end: usize,
    /// The partition's position after them.
    pub next_offset: i64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// What is next in line.
pub(crate) enum Drained {
    Records(Vec<Taken>),
    Failure(Arc<dyn Any + Send + Sync>, Failure),
}

pub(crate) struct Table {
    pub partitions: HashMap<u64, Partition>,
    pub nodes: HashMap<i32, Node>,
    pub buffer: Buffer,
    /// Fetch loops that found no room.
    waiting_for_room: Vec<Arc<Signal>>,
    /// `poll` is waiting, or about to; whoever adds to the buffer raises the fetcher's signal then.
    pub poll_waits: bool,
    /// Somebody watches the fetcher's descriptor, and is told of all that comes, waiting `poll` or not.
    pub is_watched: bool,
    pub woken: bool,
    pub closed: bool,
    next_number: u64,
}

impl Table {
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            partitions: HashMap::new(),
            nodes: HashMap::new(),
            buffer: Buffer::new(budget_bytes),
            waiting_for_room: Vec::new(),
            poll_waits: false,
            is_watched: false,
            woken: false,
            closed: false,
            next_number: 1,
        }
    }

    /// Whether `poll` would return at once, or raise.
    pub fn has_news(&self) -> bool {
        !self.buffer.is_empty() || self.woken || self.closed
    }

    /// Handles, epochs and riders are numbered from one counter: none is ever used twice.
    pub fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    // ------------------------------------------------ the engine's side

    pub fn assign(
        &mut self,
        topic: Arc<str>,
        topic_id: [u8; 16],
        number: i32,
        context: Arc<dyn Any + Send + Sync>,
    ) -> u64 {
        let (handle, epoch) = (self.number(), self.number());
        let partition = Partition {
            topic,
            topic_id,
            number,
            context,
            epoch,
            leader: NONE,
            leader_epoch: NONE,
            read_replica: NONE,
            place: (NONE, 0),
            fetch_offset: UNKNOWN,
            fetch_epoch: NONE,
            consumed_offset: UNKNOWN,
            consumed_epoch: NONE,
            is_paused: false,
            is_suspended: false,
            is_diverged: false,
            is_failed: false,
            awaits_failure: false,
            decoded_by: None,
            high_watermark: UNKNOWN,
            last_stable_offset: UNKNOWN,
            log_start_offset: UNKNOWN,
            records_returned: 0,
            bytes_returned: 0,
        };
        self.partitions.insert(handle, partition);
        handle
    }

    #[must_use]
    pub fn unassign(&mut self, handles: &[u64]) -> (HashMap<u64, Partition>, Removed) {
        let mut gone = HashMap::new();
        for &handle in handles {
            if let Some(partition) = self.partitions.remove(&handle) {
                let (node_id, rank) = partition.place;
                if let Some(node) = self.nodes.get_mut(&node_id) {
                    node.order.remove(&rank);
                    node.touch(handle);
                }
                gone.insert(handle, partition);
            }
        }
        let removed = self.buffer.forget(&gone.keys().copied().collect());
        self.wake_those_without_room();
        (gone, removed)
    }

    pub fn set_leader(&mut self, handle: u64, node_id: i32, leader_epoch: i32) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        partition.leader_epoch = leader_epoch;
        partition.leader = node_id;
        if partition.read_replica == node_id {
            partition.read_replica = NONE;
        }
        self.resettle(handle);
    }

    /// Fetch from this follower (-1: from the leader, which names no follower until `leader_serves_until`).
    pub fn set_read_replica(
        &mut self,
        handle: u64,
        node_id: i32,
        leader_serves_until: Option<Instant>,
    ) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        let leader = partition.leader;
        partition.read_replica = if node_id == leader { NONE } else { node_id };
        if let Some(node) = self.nodes.get_mut(&leader) {
            node.serves_itself_until = node.serves_itself_until.max(leader_serves_until);
        }
        self.resettle(handle);
    }

    /// Where to fetch from was said anew: puts the partition into that node's order, and lifts a suspension.
    fn resettle(&mut self, handle: u64) {
        let rank = self.number();
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        partition.is_suspended = false;
        let source = partition.source();
        let (before, old_rank) = partition.place;
        if before != source {
            partition.place = (source, rank);
            if let Some(node) = self.nodes.get_mut(&before) {
                node.order.remove(&old_rank);
                node.touch(handle);
            }
            if source >= 0 {
                let node = self.nodes.entry(source).or_default();
                node.order.insert(rank, handle);
            }
        }
        if let Some(node) = self.nodes.get_mut(&source) {
            node.rests = false;
            node.touch(handle);
            node.wake();
        }
    }

    /// What a request would say of the partition may have changed.
    pub fn touch(&mut self, handle: u64) {
        if let Some(partition) = self.partitions.get(&handle)
            && let Some(node) = self.nodes.get_mut(&partition.source())
        {
            node.touch(handle);
        }
    }

    pub fn set_topic_id(&mut self, handle: u64, topic_id: [u8; 16]) {
        if let Some(partition) = self.partitions.get_mut(&handle) {
            partition.topic_id = topic_id;
            self.touch(handle);
        }
    }

    /// A new epoch, in which the partition is fetched from `offset` on; what is buffered is forgotten.
    pub fn seek(&mut self, handle: u64, offset: i64, epoch_before: i32) -> Option<(u64, Removed)> {
        let epoch = self.number();
        let partition = self.partitions.get_mut(&handle)?;
        // Headers that make no sense have left the fetch offset where it was, whatever stood before them.
        let was_empty = partition.fetch_offset == partition.consumed_offset
            && !partition.is_failed
            && !partition.awaits_failure;
        partition.epoch = epoch;
        partition.fetch_offset = offset.max(UNKNOWN);
        partition.fetch_epoch = epoch_before;
        partition.consumed_offset = partition.fetch_offset;
        partition.consumed_epoch = epoch_before;
        partition.is_failed = false;
        partition.awaits_failure = false;
        partition.is_suspended = false;
        partition.is_diverged = false;
        partition.decoded_by = None;
        let mut removed = Removed::new();
        if !was_empty {
            removed = self.buffer.remove(handle);
            self.wake_those_without_room();
        }
        self.wake_for(handle);
        Some((epoch, removed))
    }

    /// The log ends at `end_offset`, or another one goes on there. Where more than that was fetched, all that `poll` has not
    /// returned is forgotten, and fetching starts over from the position. Returns the position and its leader epoch.
    pub fn cut(&mut self, handle: u64, end_offset: i64) -> Option<((i64, i32), Removed)> {
        let partition = self.partitions.get(&handle);
        let partition = partition.filter(|partition| partition.consumed_offset >= 0)?;
        let (offset, epoch) = (partition.consumed_offset, partition.consumed_epoch);
        let mut removed = Removed::new();
        if partition.fetch_offset > end_offset {
            (_, removed) = self.seek(handle, offset, epoch)?;
        }
        Some(((offset, epoch), removed))
    }

    pub fn pause(&mut self, handles: &[u64]) {
        let mut known = Vec::with_capacity(handles.len());
        for &handle in handles {
            if let Some(partition) = self.partitions.get_mut(&handle) {
                partition.is_paused = true;
                self.touch(handle);
                known.push(handle);
            }
        }
        self.buffer.park(&known);
        // One that waits for room may hold what can be parked now.
        self.wake_those_without_room();
    }

    pub fn resume(&mut self, handles: &[u64]) {
        // The first of the list comes to stand first.
        for handle in handles.iter().rev() {
            let Some(partition) = self.partitions.get_mut(handle) else {
                continue;
            };
            partition.is_paused = false;
            self.buffer.unpark(*handle);
            self.wake_for(*handle);
        }
    }

    /// The partition ends with this failure, which stands behind what is buffered. Back with one that it replaces.
    #[must_use]
    pub fn fail(&mut self, handle: u64, failure: Failure) -> Option<Failure> {
        let partition = self.partitions.get_mut(&handle)?;
        let epoch = partition.epoch;
        if std::mem::replace(&mut partition.is_failed, true) {
            let replaced = self.buffer.replace_failure(handle, &failure);
            if replaced.is_some() {
                return replaced;
            }
        }
        let item = Item::Failure(failure);
        self.buffer.push(Entry {
            handle,
            epoch,
            item,
        });
        self.touch(handle);
        None
    }

    // ------------------------------------------------ the user's side

    /// Up to `max_records` from the front of the line, or the failure that stands there.
    pub fn drain(&mut self, max_records: usize) -> Drained {
        let mut taken: Vec<Taken> = Vec::new();
        let mut failed = None;
        let mut left = max_records;
        while left > 0 {
            let Some(entry) = self.buffer.front() else {
                break;
            };
            let (handle, epoch) = (entry.handle, entry.epoch);
            let Some(partition) = self
                .partitions
                .get_mut(&handle)
                .filter(|p| p.epoch == epoch)
            else {
                self.buffer.pop();
                continue;
            };
            match &mut entry.item {
                Item::Marker {
                    next_offset,
                    leader_epoch,
                } => {
                    partition.consumed(*next_offset, *leader_epoch);
                    if let Some(last) = taken.last_mut().filter(|last| last.handle == handle) {
                        last.next_offset = *next_offset;
                    }
                    self.buffer.pop();
                }
                Item::Failure(_) if !taken.is_empty() => break,
                Item::Failure(failure) => {
                    // To the back of the line: the others' records come in between.
                    let failure = failure.clone();
                    let context = Arc::clone(&partition.context);
                    if let Some(entry) = self.buffer.pop() {
                        self.buffer.push(entry);
                    }
                    failed = Some(Drained::Failure(context, failure));
                    break;
                }
                Item::Records {
                    chunk,
                    cursor,
                    next_offset,
                } => {
                    let part = take(handle, partition, chunk, *cursor, *next_offset, left);
                    let count = part.end - part.start;
                    *cursor = part.end;
                    left -= count;
                    self.buffer.returned(count);
                    if part.end == part.chunk.len() {
                        self.buffer.pop();
                    }
                    taken.push(part);
                }
            }
        }
        if self.buffer.is_low() {
            self.wake_those_without_room();
        }
        failed.unwrap_or(Drained::Records(taken))
    }

    // ------------------------------------------------ the fetch loops' side

    pub fn has_seat(&self, node_id: i32, rider: u64) -> bool {
        let seat = self.nodes.get(&node_id).and_then(Node::seat);
        !self.closed && seat.is_some_and(|seat| seat.rider == rider)
    }

    /// What this loop should ask for of a partition now; None: nothing.
    pub fn wanted(&self, handle: u64, node_id: i32, rider: u64) -> Option<Wanted> {
        let partition = self.partitions.get(&handle)?;
        let is_wanted = partition.source() == node_id && partition.is_fetchable_by(rider);
        is_wanted.then(|| Wanted {
            handle,
            epoch: partition.epoch,
            topic: Arc::clone(&partition.topic),
            topic_id: partition.topic_id,
            partition: partition.number,
            offset: partition.fetch_offset,
            leader_epoch: partition.leader_epoch,
            last_fetched_epoch: if partition.leader == node_id {
                partition.fetch_epoch
            } else {
                NONE
            },
        })
    }

    /// Those that returned data go last, so that the broker's limit of a response does not starve the others.
    pub fn rotate(&mut self, node_id: i32, had_data: &[u64]) {
        for &handle in had_data {
            let rank = self.number();
            let partition = self.partitions.get_mut(&handle);
            let Some(partition) = partition.filter(|partition| partition.place.0 == node_id) else {
                continue;
            };
            let (_, before) = std::mem::replace(&mut partition.place, (node_id, rank));
            if let Some(node) = self.nodes.get_mut(&node_id) {
                node.order.remove(&before);
                node.order.insert(rank, handle);
            }
        }
    }

    /// Whether an entry may go into the line now; if not, `signal` is raised when that may have changed.
    pub fn has_room_for(&mut self, entry: &Entry, signal: &Arc<Signal>) -> bool {
        let partition = self.partitions.get(&entry.handle);
        let is_parked = partition.is_some_and(|partition| partition.is_paused);
        if is_parked || self.buffer.has_room(entry.bytes()) {
            return true;
        }
        if !self
            .waiting_for_room
            .iter()
            .any(|other| Arc::ptr_eq(other, signal))
        {
            self.waiting_for_room.push(Arc::clone(signal));
        }
        false
    }

    pub fn is_current(&self, handle: u64, epoch: u64) -> bool {
        self.partitions
            .get(&handle)
            .is_some_and(|partition| partition.epoch == epoch)
    }

    /// The loop has pushed all that it had of this partition: another one may fetch it now.
    pub fn release(&mut self, handle: u64, epoch: u64, rider: u64) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        if partition.epoch == epoch && partition.decoded_by == Some(rider) {
            partition.decoded_by = None;
            let source = partition.source();
            // The loop itself was never kept from fetching on.
            if !self.has_seat(source, rider) {
                self.wake_for(handle);
            }
        }
    }

    /// The loop ends without having pushed what it had: it has to be fetched again, from `offset` on.
    pub fn roll_back(
        &mut self,
        handle: u64,
        epoch: u64,
        rider: u64,
        (offset, leader_epoch): (i64, i32),
    ) {
        let Some(partition) = self.partitions.get_mut(&handle) else {
            return;
        };
        if partition.epoch == epoch && partition.decoded_by == Some(rider) {
            partition.fetch_offset = offset;
            partition.fetch_epoch = leader_epoch;
            partition.awaits_failure = false;
            self.touch(handle);
            self.release(handle, epoch, rider);
        }
    }

    /// It may be fetchable now.
    fn wake_for(&mut self, handle: u64) {
        let Some(partition) = self.partitions.get(&handle) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&partition.source()) {
            node.touch(handle);
            node.wake();
        }
    }

    pub fn wake_all(&mut self) {
        for node in self.nodes.values() {
            if let Some(seat) = node.seat() {
                seat.signal.notify();
            }
        }
        self.wake_those_without_room();
    }

    fn wake_those_without_room(&mut self) {
        for signal in self.waiting_for_room.drain(..) {
            signal.notify();
        }
    }
}

/// The next records of a chunk, and the partition's position moved past them. `next_offset` is that after the whole chunk.
fn take(
    handle: u64,
    partition: &mut Partition,
    chunk: &Arc<Chunk>,
    start: usize,
    next_offset: i64,
    at_most: usize,
) -> Taken {
    let end = chunk.len().min(start.saturating_add(at_most));
    let last = end.saturating_sub(1);
    let next_offset = if end == chunk.len() {
        next_offset
    } else {
        chunk.offset(last) + 1
    };
    partition.consumed(next_offset, chunk.leader_epoch(last));
    let bytes = chunk.payload_bytes(start, end);
    partition.records_returned += (end - start) as u64;
    partition.bytes_returned += bytes;
    Taken {
        handle,
        context: Arc::clone(&partition.context),
        chunk: Arc::clone(chunk),
        start,
        end,
        next_offset,
        bytes,
    }
}
