//! 1 GiB of private memory, one byte written in each 2 MiB, then a fork: what each step costs in page tables.
//!
//! With shared PTE pages the fork allocates none for that region, and the first write of either side copies exactly one.

use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::{RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, now_ns};

const SPANS: usize = 512;

fn all_bytes_are(region: &Region, changed: Option<(usize, u8)>) -> bool {
    (0..SPANS).all(|span| {
        let expected = match changed {
            Some((at, byte)) if at == span => byte,
            _ => span as u8 | 1,
        };
        region.get(span * TABLE) == expected
    })
}

fn main() {
    // Named here, so that reading them later touches no new page.
    let mut before = Counters::new();
    let mut after = Counters::new();
    let length = SPANS * TABLE;
    let wide = Region::try_map(length + TABLE, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    check!(wide.is_ok(), "1 GiB cannot be mapped: {wide:?}");
    let Ok(wide) = wide else { return };
    let base = wide.base.next_multiple_of(TABLE);
    let region = wide.part(base - wide.base, length);
    for span in 0..SPANS {
        region.set(span * TABLE, span as u8 | 1);
    }
    println!("{SPANS} bytes written");
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    before.read();
    after.read();
    judge::metric("tables_before_fork", after.get("tables_now"));

    before.read();
    let start = now_ns();
    let child = process::fork();
    if child == 0 {
        to_child.pass();
        check!(all_bytes_are(&region, None), "the child does not see the parent's bytes");
        // Once for the pages that reading itself writes to, then the true count.
        before.read();
        after.read();
        before.read();
        region.set(7 * TABLE, 0xcc);
        after.read();
        judge::metric("tables_before_child_write", before.get("tables_now"));
        judge::metric("tables_after_child_write", after.get("tables_now"));
        judge::checkpoint("child-has-written");
        check!(all_bytes_are(&region, Some((7, 0xcc))), "the child sees other bytes than its own");
        to_parent.open();
        to_child.pass();
        check!(all_bytes_are(&region, Some((7, 0xcc))), "the parent's write reached the child");
        process::leave(0);
    }
    let took = now_ns() - start;
    after.read();
    judge::metric("big_fork_ns", took);
    judge::metric("tables_after_fork", after.get("tables_now"));
    judge::metric("pte_pages_copied", after.get("fork_tables_copied") - before.get("fork_tables_copied"));
    judge::metric("pte_pages_shared", after.get("fork_tables_shared") - before.get("fork_tables_shared"));
    judge::checkpoint("forked");

    to_child.open();
    to_parent.pass();
    check!(all_bytes_are(&region, None), "the child's write reached the parent");
    println!("the child sees the parent's bytes and its own");
    before.read();
    after.read();
    before.read();
    region.set(400 * TABLE, 0xdd);
    after.read();
    judge::metric("tables_before_parent_write", before.get("tables_now"));
    judge::metric("tables_after_parent_write", after.get("tables_now"));
    judge::checkpoint("parent-has-written");
    check!(all_bytes_are(&region, Some((400, 0xdd))), "the parent sees other bytes than its own");
    to_child.open();
    let status = process::wait(child);
    println!("child: {status}");
    check_eq!(status.code(), Some(0));
    check!(all_bytes_are(&region, Some((400, 0xdd))), "the child's exit changed the parent's bytes");
    after.read();
    judge::metric("tables_after_child_exit", after.get("tables_now"));
    wide.unmap();
    after.read();
    judge::metric("tables_after_unmap", after.get("tables_now"));
    println!("each saw its own bytes only");
}
