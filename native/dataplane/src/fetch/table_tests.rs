//! The partition table alone: who is woken, what is forgotten.

use std::sync::Arc;
use std::time::Duration;

use super::table::{Drained, Table};
use crate::buffer::{Entry, Failure, Item};
use crate::signal::Signal;

const NODE: i32 = 1;
const BUDGET_BYTES: usize = 1_000;

/// A partition of node 1 with position 0, and its handle and epoch.
fn assigned(table: &mut Table) -> (u64, u64) {
    let handle = table.assign("t".into(), [7; 16], 0, Arc::new(()));
    table.set_leader(handle, NODE, 3);
    let (epoch, _) = table.seek(handle, 0, -1).unwrap();
    (handle, epoch)
}

fn marker((handle, epoch): (u64, u64), next_offset: i64) -> Entry {
    let item = Item::Marker {
        next_offset,
        leader_epoch: 0,
    };
    Entry {
        handle,
        epoch,
        item,
    }
}

fn is_raised(signal: &Signal) -> bool {
    signal.wait(Some(Duration::ZERO)).unwrap()
}

/// Markers until there is no room, the last of which waits for it.
fn fill(table: &mut Table, partition: (u64, u64), signal: &Arc<Signal>) {
    for offset in 1.. {
        let entry = marker(partition, offset);
        if !table.has_room_for(&entry, signal) {
            return;
        }
        table.buffer.push(entry);
    }
}

#[test]
fn room_is_told_of_although_a_failure_ends_the_poll() {
    let mut table = Table::new(BUDGET_BYTES);
    let (broken, full) = (assigned(&mut table), assigned(&mut table));
    let waits = Arc::new(Signal::new().unwrap());
    fill(&mut table, full, &waits);
    assert!(!is_raised(&waits));
    assert!(
        table
            .fail(broken.0, Failure::Foreign(Arc::new(())))
            .is_none()
    );
    assert!(matches!(table.drain(500), Drained::Failure(..)));
    assert_eq!(table.buffer.bytes(), 0);
    assert!(is_raised(&waits), "the fetch loop would wait for ever");
}

#[test]
fn a_seek_forgets_what_stood_before_headers_that_make_no_sense() {
    let mut table = Table::new(BUDGET_BYTES);
    let partition = assigned(&mut table);
    table
        .partitions
        .get_mut(&partition.0)
        .unwrap()
        .awaits_failure = true;
    table.buffer.push(marker(partition, 5));
    let (_, removed) = table.seek(partition.0, 0, -1).unwrap();
    assert_eq!(removed.len(), 1);
    assert!(table.buffer.is_empty());
}

#[test]
fn partitions_are_parked_together_each_in_its_order() {
    let mut table = Table::new(BUDGET_BYTES);
    let parts: Vec<_> = (0..3).map(|_| assigned(&mut table)).collect();
    for offset in 1..4 {
        for &part in &parts {
            table.buffer.push(marker(part, offset));
        }
    }
    let handles = [parts[0].0, parts[2].0];
    table.pause(&handles);
    assert_eq!(table.buffer.bytes(), 3 * marker(parts[1], 0).bytes());
    table.resume(&handles);
    let rest = std::iter::from_fn(|| table.buffer.pop());
    let order: Vec<_> = rest
        .map(|entry| match entry.item {
            Item::Marker { next_offset, .. } => (entry.handle, next_offset),
            other => panic!("{other:?}"),
        })
        .collect();
    let of = |part: (u64, u64)| [1, 2, 3].map(|offset| (part.0, offset));
    let expected = [of(parts[0]), of(parts[2]), of(parts[1])].concat();
    assert_eq!(order, expected);
}
