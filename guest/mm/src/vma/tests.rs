//! The list of VMAs against a flat map of pages. No page is ever touched here, so the machine below is a stub.

use super::*;
use crate::env::{Env, FlushRange};
use crate::frame::Buddy;
use alloc::collections::BTreeMap;
use alloc::sync::Weak;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;
use ptshare_paging::{PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_sync::Lock;
use ptshare_wire::{CensusHeader, FrameMeta, MmRec};

/// A machine that nobody may use.
#[derive(Clone)]
struct NoMachine;

impl Env for NoMachine {
    fn load(&self, _: Pfn, _: Slot) -> Pte {
        unreachable!()
    }
    fn store(&self, _: Pfn, _: Slot, _: Pte) {}
    fn swap(&self, _: Pfn, _: Slot, _: Pte) -> Pte {
        unreachable!()
    }
    fn clear_bits(&self, _: Pfn, _: Slot, _: u64) -> Pte {
        unreachable!()
    }
    fn next_nonzero(&self, _: Pfn, _: Slot, _: usize) -> Option<(Slot, Pte)> {
        None
    }
    fn zero_pages(&self, _: Pfn, _: u64) {}
    fn copy_table(&self, _: Pfn, _: Pfn) {}
    fn zero_table(&self, _: Pfn) {}
    fn copy_page(&self, _: Pfn, _: Pfn) {}
    fn read_phys(&self, _: u64, _: &mut [u8]) {}
    fn write_phys(&self, _: u64, _: &[u8]) {}
    fn copy_phys(&self, _: u64, _: u64, _: u64) {}
    fn meta(&self, _: Pfn) -> &FrameMeta {
        unreachable!()
    }
    fn object_tables(&self) -> &Lock<crate::ObjectTables> {
        unreachable!()
    }
    fn mms(&self) -> &Lock<crate::Mms<NoMachine>> {
        unreachable!()
    }
    fn has_gib_pages(&self) -> bool {
        false
    }
    fn share_file(&self) -> bool {
        unreachable!()
    }
    fn allocator(&self) -> &Lock<Buddy> {
        unreachable!()
    }
    fn flush(&self, _: &MmRec, _: FlushRange) {}
    fn flush_everyone(&self) {}
    fn cpu(&self) -> usize {
        0
    }
    fn flush_answers(&self) -> u64 {
        0
    }
    fn take_mm_slot(&self) -> Option<u32> {
        None
    }
    fn return_mm_slot(&self, _: u32) {}
    fn mm_rec(&self, _: u32) -> &MmRec {
        unreachable!()
    }
    fn fill_kernel_half(&self, _: Pfn) {}
    fn clear_kernel_half(&self, _: Pfn) {}
    fn critical_enter(&self) {}
    fn critical_exit(&self) {}
    fn census(&self) -> &CensusHeader {
        unreachable!()
    }
    fn zero_page(&self) -> Pfn {
        Pfn(1)
    }
    fn census_va<T>(&self, value: &T) -> u64 {
        core::ptr::from_ref(value).addr() as u64
    }
    fn wait_userfault(&self, _: crate::Ticket) -> bool {
        unreachable!()
    }
    fn random(&self) -> u64 {
        4
    }
}

const RW: u64 = VM_READ | VM_WRITE;
const BASE: u64 = 0x10_0000;

fn set() -> VmaSet<NoMachine> {
    VmaSet::new(Weak::new(), 0)
}

fn page(n: u64) -> u64 {
    BASE + n * PAGE_BYTES
}

fn object() -> Arc<Object<NoMachine>> {
    Object::shared_anonymous(NoMachine, 1 << 30)
}

/// What each page is: flags, object, page of the object.
type Flat = BTreeMap<u64, (u64, u64, u64)>;

fn flatten(set: &VmaSet<NoMachine>) -> Flat {
    let mut flat = Flat::new();
    for vma in set.iter() {
        for n in 0..vma.pages() {
            let addr = vma.rec.start + n * PAGE_BYTES;
            let pgoff = if vma.object.is_some() { vma.pgoff_of(addr) } else { 0 };
            assert!(
                flat.insert(addr, (vma.rec.flags, vma.rec.object, pgoff)).is_none(),
                "overlap at {addr:#x}"
            );
        }
    }
    flat
}

fn check(set: &VmaSet<NoMachine>) {
    let mut counts = Counts::default();
    let mut last = 0;
    for chunk in &set.index {
        assert!(!chunk.vmas().is_empty(), "empty chunk");
    }
    for vma in set.iter() {
        assert!(vma.rec.start >= last && vma.rec.start < vma.rec.end, "order at {:#x}", vma.rec.start);
        assert_eq!(vma.object.as_ref().map_or(0, |object| object.id()), vma.rec.object);
        if vma.object.is_none() {
            assert_eq!(vma.rec.pgoff, vma.rec.start / PAGE_BYTES);
        }
        last = vma.rec.end;
        counts.add(vma.rec.flags, vma.pages());
    }
    assert_eq!(counts, set.counts());
    assert_eq!(set.iter().count(), set.len());
    for vma in set.iter() {
        assert_eq!(set.find(vma.rec.start).map(|v| v.rec), Some(vma.rec));
        assert_eq!(set.find(vma.rec.end - 1).map(|v| v.rec), Some(vma.rec));
        assert_eq!(set.find_at_or_after(vma.rec.end).map(|v| v.rec.start >= vma.rec.end), {
            set.iter().any(|v| v.rec.start >= vma.rec.end).then_some(true)
        });
    }
}

fn merged(set: &VmaSet<NoMachine>) -> bool {
    let mut before: Option<&Vma<NoMachine>> = None;
    set.iter().all(|vma| {
        let apart = before.is_none_or(|b| !b.merges_with(vma));
        before = Some(vma);
        apart
    })
}

#[test]
fn neighbours_with_equal_flags_become_one() {
    let mut set = set();
    set.insert_merged(Vma::anonymous(page(0), page(1), RW));
    set.insert_merged(Vma::anonymous(page(2), page(3), RW));
    assert_eq!(set.len(), 2);
    set.insert_merged(Vma::anonymous(page(1), page(2), RW));
    assert_eq!(set.len(), 1);
    set.insert_merged(Vma::anonymous(page(3), page(4), VM_READ));
    assert_eq!(set.len(), 2);
    check(&set);
}

#[test]
fn an_object_merges_only_where_its_offsets_continue() {
    let (mut set, a) = (set(), object());
    set.insert_merged(Vma::of_object(page(0), page(1), RW, a.clone(), 5));
    set.insert_merged(Vma::of_object(page(1), page(2), RW, a.clone(), 6));
    assert_eq!(set.len(), 1);
    set.insert_merged(Vma::of_object(page(2), page(3), RW, a.clone(), 8));
    set.insert_merged(Vma::of_object(page(3), page(4), RW, object(), 9));
    assert_eq!(set.len(), 3);
    assert_eq!(a.mapping_count(), 2);
    check(&set);
}

#[test]
fn splitting_keeps_every_page_on_its_page_of_the_object() {
    let (mut set, a) = (set(), object());
    set.insert(Vma::of_object(page(0), page(10), RW, a.clone(), 100));
    let before = flatten(&set);
    set.split_at(page(4));
    set.split_at(page(4));
    set.split_at(page(0));
    set.split_at(page(10));
    assert_eq!((set.len(), a.mapping_count()), (2, 2));
    assert_eq!(flatten(&set), before);
    set.remove_range(page(3), page(5));
    assert_eq!(set.iter().map(|vma| vma.rec.pgoff).collect::<Vec<_>>(), [100, 105]);
    set.clear();
    assert_eq!(a.mapping_count(), 0);
}

#[test]
fn a_child_gets_no_dontcopy_range_and_no_locks() {
    let (mut parent, mut child) = (set(), set());
    parent.insert(Vma::anonymous(page(0), page(1), RW | VM_LOCKED));
    parent.insert(Vma::anonymous(page(1), page(2), RW | VM_DONTCOPY));
    for n in 2..200 {
        parent.insert(Vma::anonymous(page(2 * n), page(2 * n + 1), RW));
    }
    parent.duplicate_for_child(&mut child).unwrap();
    assert_eq!(child.len(), parent.len() - 1);
    assert_eq!(child.find(page(0)).unwrap().rec.flags, RW);
    assert!(child.find(page(1)).is_none());
    assert_eq!(child.counts().locked, 0);
    check(&child);
}

#[test]
fn placement_goes_down_from_the_base_and_below_a_stacks_guard_gap() {
    let mut set = set();
    let base = set.layout.mmap_base;
    let first = set.place(0, 0x3000, false).unwrap();
    assert_eq!(first, base - 0x3000);
    set.insert(Vma::anonymous(first, base, RW));
    let second = set.place(0, 0x1000, false).unwrap();
    assert_eq!(second, first - 0x1000);
    set.insert(Vma::anonymous(second, first, RW | VM_GROWSDOWN));
    assert_eq!(set.place(0, 0x1000, false), Some(second - STACK_GUARD_BYTES - 0x1000));
    // A hole above is used before a place below.
    set.remove_range(first, first + 0x1000);
    assert_eq!(set.place(0, 0x1000, false), Some(first));
    assert_eq!(set.place(0, 0x2000, false), Some(second - STACK_GUARD_BYTES - 0x2000));
    // A free hint is granted, a taken one is not.
    assert_eq!(set.place(0x5000_0000, 0x1000, false), Some(0x5000_0000));
    assert_ne!(set.place(second, 0x1000, false), Some(second));
    assert_eq!(set.place(0, 0x1000, true), Some(0x4000_0000));
    assert_eq!(set.place(0, ptshare_paging::USER_END, false), None);
}

#[test]
fn the_most_vmas_that_an_mm_may_have_fit() {
    let mut set = set();
    // Every other page, from the top down, as mmap places them.
    for n in (0..MAX_MAP_COUNT as u64).rev() {
        set.insert_merged(Vma::anonymous(page(2 * n), page(2 * n + 1), RW));
    }
    assert_eq!(set.len(), MAX_MAP_COUNT);
    assert!(set.index.len() < MAX_MAP_COUNT / 16);
    for n in (0..MAX_MAP_COUNT as u64).step_by(997) {
        assert_eq!(set.find(page(2 * n)).unwrap().rec.start, page(2 * n));
        assert!(set.find(page(2 * n + 1)).is_none());
    }
    set.remove_range(page(0), page(2 * MAX_MAP_COUNT as u64));
    assert!(set.is_empty() && set.index.is_empty());
    assert_eq!(set.counts(), Counts::default());
}

#[derive(Clone, Debug)]
enum Op {
    Insert { at: u64, pages: u64, flags: u64, object: Option<u8>, pgoff: u64 },
    Remove { at: u64, pages: u64 },
    Flags { at: u64, pages: u64, set: u64, clear: u64 },
    Split { at: u64 },
    Place { pages: u64 },
}

const SPACE: u64 = 160;

fn ops() -> impl Strategy<Value = Op> {
    let flags = prop::sample::select(vec![RW, VM_READ, VM_READ | VM_EXEC, RW | VM_GROWSDOWN]);
    let range = || (0..SPACE, 1_u64..12).prop_map(|(at, pages)| (at, pages.min(SPACE - at)));
    let bits = prop::sample::select(vec![0, VM_WRITE, VM_LOCKED]);
    prop_oneof![
        4 => (range(), flags, prop::option::of(0_u8..2), 0_u64..4).prop_map(
            |((at, pages), flags, object, delta)| Op::Insert { at, pages, flags, object, pgoff: at + 8 * delta }
        ),
        2 => range().prop_map(|(at, pages)| Op::Remove { at, pages }),
        2 => (range(), bits.clone(), bits).prop_map(|((at, pages), set, clear)| Op::Flags { at, pages, set, clear }),
        1 => (0..SPACE).prop_map(|at| Op::Split { at }),
        1 => (1_u64..12).prop_map(|pages| Op::Place { pages }),
    ]
}

/// The highest gap, found the slow way.
fn slow_place(set: &VmaSet<NoMachine>, base: u64, len: u64) -> Option<u64> {
    let mut addr = base - len;
    while addr >= MMAP_MIN_ADDR {
        if set.iter().all(|vma| vma.rec.end <= addr || addr + len <= vma.gap_start()) {
            return Some(addr);
        }
        addr -= PAGE_BYTES;
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_list_agrees_with_a_flat_map(ops in prop::collection::vec(ops(), 1..120)) {
        let mut set = set();
        set.layout.mmap_base = page(SPACE);
        let objects = [object(), object()];
        let mut flat = Flat::new();
        for op in ops {
            let mut canonical = merged(&set);
            match op {
                Op::Insert { at, pages, flags, object, pgoff } => {
                    let (start, end) = (page(at), page(at + pages));
                    set.remove_range(start, end);
                    set.insert_merged(match object {
                        Some(n) => Vma::of_object(start, end, flags, objects[n as usize].clone(), pgoff),
                        None => Vma::anonymous(start, end, flags),
                    });
                    for n in 0..pages {
                        let value = match object {
                            Some(o) => (flags, objects[o as usize].id(), pgoff + n),
                            None => (flags, 0, 0),
                        };
                        flat.insert(page(at + n), value);
                    }
                }
                Op::Remove { at, pages } => {
                    set.remove_range(page(at), page(at + pages));
                    flat.retain(|&addr, _| addr < page(at) || addr >= page(at + pages));
                }
                Op::Flags { at, pages, set: on, clear } => {
                    let mut seen = Flat::new();
                    set.update_flags(page(at), page(at + pages), |f| f & !clear | on, |start, end, flags| {
                        for addr in (start..end).step_by(PAGE_BYTES as usize) {
                            seen.insert(addr, (flags, 0, 0));
                        }
                    });
                    for (addr, value) in flat.range_mut(page(at)..page(at + pages)) {
                        let new = value.0 & !clear | on;
                        prop_assert_eq!(seen.contains_key(addr), new != value.0);
                        value.0 = new;
                    }
                }
                Op::Split { at } => {
                    set.split_at(page(at));
                    canonical = false;
                }
                Op::Place { pages } => {
                    let len = pages * PAGE_BYTES;
                    let base = set.layout.mmap_base;
                    let expected = slow_place(&set, base, len);
                    let placed = set.place(0, len, false);
                    if let Some(addr) = expected {
                        prop_assert_eq!(placed, Some(addr));
                    } else {
                        // Bottom-up, above everything.
                        prop_assert!(placed.is_some_and(|addr| addr >= super::gap::UNMAPPED_BASE));
                    }
                }
            }
            check(&set);
            prop_assert_eq!(&flatten(&set), &flat);
            if canonical {
                prop_assert!(merged(&set));
            }
        }
        let registered = objects[0].mapping_count() + objects[1].mapping_count();
        prop_assert_eq!(registered, set.iter().filter(|vma| vma.object.is_some()).count());
        set.clear();
    }
}
