//! The call itself, and what an area tells.

use crate::area::{Area, BYTES, SIGNATURE, UNREGISTER, named};
use crate::{cpus, getcpu, run_on};
use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::{check, check_eq, judge, process};
use std::sync::atomic::Ordering::Relaxed;

/// What is refused, and with which error.
pub fn errors() {
    let area: &'static Area = Box::leak(Box::default());
    let at = area.address();
    let hole = Region::private(PAGE);
    hole.unmap();
    let new = |what: &str, at, len, flags, signature| {
        println!("{what}: {}", named(at, len, flags, signature));
    };
    new("nothing to unregister", at, BYTES, UNREGISTER, SIGNATURE);
    new("too short", at, BYTES - 1, 0, SIGNATURE);
    new("too short for all fields", at, 0, 0, SIGNATURE);
    new("between two places", at + 4, BYTES, 0, SIGNATURE);
    new("longer, between two places", at + 16, BYTES + 8, 0, SIGNATURE);
    new("unknown flag", at, BYTES, 2, SIGNATURE);
    new("in a hole", hole.base as u64, BYTES, 0, SIGNATURE);
    new("behind user memory", 1 << 47, BYTES, 0, SIGNATURE);
    new("in the kernel", 0xffff_8000_0000_0000, BYTES, 0, SIGNATURE);

    area.section.store(12345, Relaxed);
    new("registered", at, BYTES, 0, SIGNATURE);
    check_eq!(area.section.load(Relaxed), 0);
    let other: &'static Area = Box::leak(Box::default());
    new("again", at, BYTES, 0, SIGNATURE);
    new("again, other signature", at, BYTES, 0, 1);
    new("again, other length", at, 2 * BYTES, 0, SIGNATURE);
    new("another area", other.address(), BYTES, 0, SIGNATURE);
    new("unregister, flag too many", at, BYTES, UNREGISTER | 2, SIGNATURE);
    new("unregister, other area", other.address(), BYTES, UNREGISTER, SIGNATURE);
    new("unregister, other length", at, 2 * BYTES, UNREGISTER, SIGNATURE);
    new("unregister, other signature", at, BYTES, UNREGISTER, 1);
    new("unregistered", at, BYTES, UNREGISTER, SIGNATURE);
    let words = [&area.cpu_start, &area.cpu, &area.node, &area.cid].map(|word| word.load(Relaxed) as i32);
    println!("what is left there: {words:?}");
    new("unregistered twice", at, BYTES, UNREGISTER, SIGNATURE);

    let long: &'static [Area; 2] = Box::leak(Box::default());
    new("longer", long[0].address(), 2 * BYTES, 0, SIGNATURE);
    new("longer, unregistered", long[0].address(), 2 * BYTES, UNREGISTER, SIGNATURE);
}

/// The numbers in the area, on every CPU.
pub fn fields() {
    let area = Area::registered();
    for &cpu in cpus() {
        run_on(&[cpu]);
        let numbers = [&area.cpu_start, &area.cpu].map(|word| word.load(Relaxed) as usize);
        check_eq!(numbers, [cpu, cpu]);
        check_eq!((area.cpu.load(Relaxed), area.node.load(Relaxed)), getcpu());
        check_cid(area, 1);
    }
    area.unregister();
    println!("the area tells every CPU");
}

/// The number is as small as the thread's siblings are few. Linux gives numbers back later, and may give a higher one
/// meanwhile.
pub fn check_cid(area: &Area, threads: u32) {
    let cid = area.cid.load(Relaxed);
    check!(cid < threads || !judge::present(), "number {cid} for {threads} threads");
}

/// fork hands the area on, a thread begins without.
pub fn children() {
    let area = Area::registered();
    let last = cpus().last().copied().unwrap_or(0);
    let status = process::in_child(|| {
        run_on(&[last]);
        println!("in a child: {}", named(area.address(), BYTES, 0, SIGNATURE));
        i32::from(area.cpu.load(Relaxed) as usize != last)
    });
    println!("child: {status}");
    let thread = std::thread::spawn(|| {
        let area = Area::registered();
        area.unregister();
    });
    check!(thread.join().is_ok(), "the thread has an area already");
    area.unregister();
}
