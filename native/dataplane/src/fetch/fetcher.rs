//! What engine and user call.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::node::{Node, Seat};
use super::rider::FetchLoop;
use super::table::{Drained, Table, Taken};
use super::{FetchConfig, MAX_VERSION, MIN_VERSION, Stats, add};
use crate::buffer::Failure;
use crate::connection::Connection;
use crate::events::EventQueue;
use crate::progress::Progress;
use crate::signal::Signal;

pub(crate) struct Shared {
    pub config: FetchConfig,
    pub events: Arc<EventQueue>,
    pub stats: Stats,
    /// Fetch loops that exist.
    pub loops: AtomicUsize,
    table: Mutex<Table>,
    /// Raised for a waiting `poll`.
    ready: Signal,
}

impl Shared {
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a waiting `poll` look, if there is something for it.
    pub fn wake_poll(&self, mut table: MutexGuard<'_, Table>) {
        if table.has_news() && (std::mem::take(&mut table.poll_waits) || table.is_watched) {
            drop(table);
            self.ready.notify();
        }
    }
}

/// What `try_poll` finds.
pub enum Polled {
    /// Records, oldest fetch first.
    Records(Vec<Taken>),
    /// A partition that cannot go on: its context, and why.
    Failure(Arc<dyn Any + Send + Sync>, Failure),
    /// `wake` was called since the last time.
    Woken,
    /// Nothing yet.
    Nothing,
    /// The fetcher is closed.
    Closed,
}

/// The fetch positions, the fetch loops and the bounded buffer of one consumer.
///
/// In a forked child no method may be called, as a lock may be held by a thread that does not exist there; dropping it is
/// safe.
pub struct Fetcher {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    process_id: u32,
}

impl Fetcher {
    /// A fetcher without partitions.
    ///
    /// # Errors
    /// No file descriptor could be had.
    pub fn new(config: FetchConfig, events: Arc<EventQueue>) -> std::io::Result<Self> {
        let shared = Shared {
            table: Mutex::new(Table::new(config.buffer_bytes)),
            config,
            events,
            stats: Stats::default(),
            loops: AtomicUsize::new(0),
            ready: Signal::new()?,
        };
        Ok(Self {
            shared: Arc::new(shared),
            progress: Arc::default(),
            process_id: std::process::id(),
        })
    }

    /// The process that made it.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// A new partition, without position or leader. `context` comes back with its records.
    pub fn assign(
        &self,
        topic: Arc<str>,
        topic_id: [u8; 16],
        partition: i32,
        context: Arc<dyn Any + Send + Sync>,
    ) -> u64 {
        self.shared
            .table()
            .assign(topic, topic_id, partition, context)
    }

    /// Forgets partitions and all that was fetched of them.
    pub fn unassign(&self, handles: &[u64]) {
        let gone = self.shared.table().unassign(handles);
        drop(gone); // Without the lock.
    }

    /// The topic was made anew, or its id became known.
    pub fn set_topic_id(&self, handle: u64, topic_id: [u8; 16]) {
        self.shared.table().set_topic_id(handle, topic_id);
    }

    /// Where to fetch from; -1: nowhere for now. Lifts a suspension.
    pub fn set_leader(&self, handle: u64, node_id: i32, leader_epoch: i32) {
        self.shared
            .table()
            .set_leader(handle, node_id, leader_epoch);
    }

    /// Fetches from this follower in place of the leader; -1: from the leader again, which is asked to serve the records itself
    /// for that time. Lifts a suspension.
    pub fn set_read_replica(&self, handle: u64, node_id: i32, leader_serves: Duration) {
        let until = Instant::now().checked_add(leader_serves);
        let until = until.filter(|_| !leader_serves.is_zero());
        let mut table = self.shared.table();
        table.set_read_replica(handle, node_id, until);
    }

    /// Per node, for nodes that were ever fetched from: (its id, requests sent, bytes of record batches that came).
    pub fn node_stats(&self) -> Vec<(i32, u64, u64)> {
        let table = self.shared.table();
        let nodes = table.nodes.iter();
        let asked = nodes.filter(|(_, node)| node.fetches > 0);
        asked
            .map(|(&id, node)| (id, node.fetches, node.bytes))
            .collect()
    }

    /// Fetches from `offset` on, in a new epoch, which is returned; None for an unknown handle. -1: no position.
    pub fn seek(&self, handle: u64, offset: i64, last_leader_epoch: i32) -> Option<u64> {
        let sought = self.shared.table().seek(handle, offset, last_leader_epoch);
        sought.map(|(epoch, _)| epoch)
    }

    /// Forgets what was fetched beyond the end of the log; the position as it then is. See `Table::cut`.
    pub fn cut(&self, handle: u64, end_offset: i64) -> Option<(i64, i32)> {
        let cut = self.shared.table().cut(handle, end_offset);
        cut.map(|(position, _)| position)
    }

    /// The partition's epoch.
    pub fn epoch(&self, handle: u64) -> Option<u64> {
        self.shared
            .table()
            .partitions
            .get(&handle)
            .map(|partition| partition.epoch)
    }

    /// (offset of the next record that `poll` returns, leader epoch of the last one or -1).
    pub fn position(&self, handle: u64) -> Option<(i64, i32)> {
        let table = self.shared.table();
        let partition = table
            .partitions
            .get(&handle)
            .filter(|p| p.consumed_offset >= 0)?;
        Some((partition.consumed_offset, partition.consumed_epoch))
    }

    /// (high watermark, last stable offset, log start offset) of the last answer; -1 where not known.
    pub fn marks(&self, handle: u64) -> Option<(i64, i64, i64)> {
        let table = self.shared.table();
        let p = table.partitions.get(&handle)?;
        Some((p.high_watermark, p.last_stable_offset, p.log_start_offset))
    }

    /// Stops returning and fetching.
    pub fn pause(&self, handles: &[u64]) {
        self.shared.table().pause(handles);
    }

    /// Goes on after `pause`.
    pub fn resume(&self, handles: &[u64]) {
        let mut table = self.shared.table();
        table.resume(handles);
        self.shared.wake_poll(table);
    }

    /// Of each partition: (offset that `poll` returns next, high watermark, last stable offset, log start offset); -1 for what is
    /// not known, and for all of a partition that is not assigned.
    pub fn places(&self, handles: &[u64]) -> Vec<(i64, i64, i64, i64)> {
        let table = self.shared.table();
        let places = handles.iter().map(|handle| {
            let p = table.partitions.get(handle);
            p.map_or((-1, -1, -1, -1), |p| {
                let marks = (p.high_watermark, p.last_stable_offset, p.log_start_offset);
                (p.consumed_offset, marks.0, marks.1, marks.2)
            })
        });
        places.collect()
    }

    /// What `poll` has handed out of a partition: (records, bytes of their keys and values).
    pub fn partition_stats(&self, handle: u64) -> Option<(u64, u64)> {
        let table = self.shared.table();
        let p = table.partitions.get(&handle)?;
        Some((p.records_returned, p.bytes_returned))
    }

    /// Ends a partition with a failure behind what is buffered.
    pub fn fail(&self, handle: u64, failure: Failure) {
        let mut table = self.shared.table();
        let replaced = table.fail(handle, failure);
        self.shared.wake_poll(table);
        drop(replaced);
    }

    /// Runs the fetch loop of a node on its connection. `version` above what is known here is lowered.
    ///
    /// # Errors
    /// A version below the oldest known one.
    pub fn attach(
        &self,
        node_id: i32,
        connection: &Connection,
        version: i16,
    ) -> Result<(), String> {
        if version < MIN_VERSION {
            return Err(format!(
                "Fetch version {version}; {MIN_VERSION} to {MAX_VERSION} are known"
            ));
        }
        let signal = connection.signal();
        let mut table = self.shared.table();
        let rider = table.number();
        let node = table.nodes.entry(node_id).or_default();
        if let Some(before) = node.leave_seat() {
            // It gives back what it has not pushed, or the partitions of it would wait for it.
            before.signal.notify();
        }
        node.take_seat(Seat {
            rider,
            signal: Arc::clone(&signal),
        });
        let left_session = std::mem::take(&mut node.left_session);
        drop(table);
        self.shared.loops.fetch_add(1, Ordering::Relaxed);
        let version = version.min(MAX_VERSION);
        let shared = Arc::clone(&self.shared);
        let id = connection.id();
        connection.board(Box::new(FetchLoop::new(
            shared,
            rider,
            node_id,
            id,
            version,
            signal,
            left_session,
        )));
        Ok(())
    }

    /// Ends the fetch loop of a node. What it has fetched and not pushed will be fetched again.
    pub fn detach(&self, node_id: i32) {
        let mut table = self.shared.table();
        let node = table.nodes.get_mut(&node_id);
        let seat = node.and_then(Node::leave_seat);
        drop(table);
        if let Some(seat) = seat {
            seat.signal.notify();
        }
    }

    /// What is there, without waiting; up to `max_records`.
    pub fn try_poll(&self, max_records: usize) -> Polled {
        let mut table = self.shared.table();
        let polled = self.take_from(&mut table, max_records);
        if !table.has_news() {
            // Under the lock: what comes later finds the signal lowered and raises it. One that has added already, and is about
            // to raise it, raises it for nothing; the next `poll` finds nothing and lowers it again.
            self.shared.ready.clear();
        }
        polled
    }

    fn take_from(&self, table: &mut Table, max_records: usize) -> Polled {
        if table.closed {
            return Polled::Closed;
        }
        if std::mem::take(&mut table.woken) {
            return Polled::Woken;
        }
        match table.drain(max_records) {
            Drained::Records(taken) if taken.is_empty() => {
                table.poll_waits = true;
                Polled::Nothing
            }
            Drained::Records(taken) => {
                let stats = &self.shared.stats;
                let bytes = taken.iter().map(|taken| taken.bytes).sum();
                add(
                    &stats.records_returned,
                    taken.iter().map(|taken| taken.end - taken.start).sum(),
                );
                stats.bytes_returned.fetch_add(bytes, Ordering::Relaxed);
                Polled::Records(taken)
            }
            Drained::Failure(context, failure) => Polled::Failure(context, failure),
        }
    }

    /// A descriptor that is readable while `try_poll` may find something, for an event loop. It is raised whenever something
    /// comes and lowered by the `try_poll` after which nothing is left, so that no wake-up is lost, level- or edge-triggered
    /// (with edges: `try_poll` until it finds nothing). It may be readable for nothing, once.
    pub fn watch(&self) -> BorrowedFd<'_> {
        let mut table = self.shared.table();
        table.is_watched = true;
        self.shared.wake_poll(table);
        self.shared.ready.as_fd()
    }

    /// Waits until `try_poll` may find something, which is who lowers the descriptor.
    ///
    /// # Errors
    /// `Errno::INTR` when a signal of the operating system arrived.
    pub fn wait(&self, timeout: Duration) -> Result<(), Errno> {
        self.shared.ready.wait(Some(timeout)).map(drop)
    }

    /// Takes note that the user polls.
    pub fn poll_entered(&self) {
        add(&self.shared.stats.polls, 1);
        self.progress.poll_entered();
    }

    /// Whether the user's thread makes progress.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Makes the present or the next poll return at once.
    pub fn wake(&self) {
        let mut table = self.shared.table();
        table.woken = true;
        self.shared.wake_poll(table);
    }

    /// Bytes and records that wait for `poll`, without those of paused partitions.
    pub fn buffered(&self) -> (usize, usize) {
        let table = self.shared.table();
        (table.buffer.bytes(), table.buffer.records())
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Ends all loops and forgets what is buffered; idempotent. Connections stay open.
    pub fn close(&self) {
        let mut table = self.shared.table();
        table.closed = true;
        table.buffer.clear();
        table.partitions.clear();
        table.wake_all();
        table.nodes.clear();
        self.shared.wake_poll(table);
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        if self.process_id == std::process::id() {
            self.close();
        }
    }
}
