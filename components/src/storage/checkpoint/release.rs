//! What removes things from the tree, also where it cannot grow, and the room for it.

use super::{Last, Pass, STATE, put_meta, row_bytes, write};
use crate::error::Result;
use crate::storage::format;
use crate::storage::log::segments::Segments;
use crate::storage::tree::{EXPIRIES, META, Tree, wrong};
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

/// Pages that a checkpoint with new data leaves free in the tree when it is asked to: a transaction
/// that removes things copies the pages on the way to them first, and the pages that it is done
/// with are free only after it. A tree that has fewer and cannot grow takes no new data. They are
/// single: what many deletes leave free lies between what is still there.
const RESERVE_PAGES: u8 = 64;

/// A row that takes a page.
const RESERVE_ROW_BYTES: usize = 3 << 10;

/// Only removes what batches up to `upto` leave nothing of, to make room in a tree that cannot
/// grow: at most `step` rows at once, so that each transaction finds its pages in what the one
/// before it left, and not the first `skip` values. The tree stays at its sequence: the same
/// batches come again.
pub(in crate::storage) fn shrink(
    tree: &Tree,
    segments: &Segments,
    upto: u64,
    step: usize,
    skip: usize,
) -> Result<()> {
    let mut pass = Pass::load(tree, segments)?;
    segments.visit(pass.meta.sequence, upto, |read| pass.take(read))?;
    let mut gone = std::mem::take(&mut pass.keys);
    gone.retain(|_, place| place.is_none());
    let gone = present(tree, gone.into_keys())?;
    pass.appends.clear();
    pass.changed.clear();
    pass.meta = tree.meta()?;
    pass.removals_max = step;
    let mut gone = gone.into_iter().skip(skip).peekable();
    while gone.peek().is_some() || !pass.freed.is_empty() {
        pass.keys = gone.by_ref().take(step).map(|key| (key, None)).collect();
        pass.write(Some(Last::Shrink))?;
    }
    Ok(())
}

/// Those of the keys that the tree has.
fn present(tree: &Tree, keys: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    tree.with(|database| {
        let transaction = database.begin_read().map_err(wrong)?;
        let states = transaction.open_table(STATE).map_err(wrong)?;
        let mut found = Vec::new();
        for key in keys {
            if states.get(&*key).map_err(wrong)?.is_some() {
                found.push(key);
            }
        }
        Ok(found)
    })
}

/// Removes values that have expired, `step` at most. Answers whether there may be more.
pub(in crate::storage) fn sweep(tree: &Tree, now_ms: u64, step: usize) -> Result<bool> {
    let due = tree.with(|database| {
        let transaction = database.begin_read().map_err(wrong)?;
        let expiries = transaction.open_table(EXPIRIES).map_err(wrong)?;
        let end = now_ms.saturating_add(1).to_be_bytes();
        let mut due = Vec::new();
        for row in expiries.range::<&[u8]>(..&end[..]).map_err(wrong)?.take(step) {
            due.push(row.map_err(wrong)?.0.value().to_vec());
        }
        Ok(due)
    })?;
    if due.is_empty() {
        return Ok(false);
    }
    let mut meta = tree.meta()?;
    write(tree, |transaction| {
        let mut states = transaction.open_table(STATE).map_err(wrong)?;
        let mut expiries = transaction.open_table(EXPIRIES).map_err(wrong)?;
        for row in &due {
            let (Some(expires), Some(key)) = (row.first_chunk::<8>(), row.get(8..)) else {
                continue;
            };
            let still = match states.get(key).map_err(wrong)? {
                Some(record) => format::decode_state(record.value())?.0.expires_ms,
                None => None,
            };
            if still == Some(u64::from_be_bytes(*expires))
                && let Some(record) = states.remove(key).map_err(wrong)?
            {
                meta.live_bytes = meta.live_bytes.saturating_sub(row_bytes(key, record.value()));
            }
            expiries.remove(&**row).map_err(wrong)?;
        }
        drop((states, expiries));
        put_meta(transaction, &meta)
    })?;
    Ok(due.len() == step)
}

/// Makes sure that what is left free is enough to remove things, or fails: takes it, which lets the
/// tree grow, and gives it back.
pub(super) fn leave_room(transaction: &WriteTransaction) -> Result<()> {
    let mut table = transaction.open_table(META).map_err(wrong)?;
    for row in 1..=RESERVE_PAGES {
        drop(table.insert_reserve(&[row][..], RESERVE_ROW_BYTES).map_err(wrong)?);
    }
    for row in 1..=RESERVE_PAGES {
        table.remove(&[row][..]).map_err(wrong)?;
    }
    Ok(())
}
