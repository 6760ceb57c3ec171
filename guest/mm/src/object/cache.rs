//! The index of a page cache: page number -> frame.
//!
//! Nodes of 32 frames. The first 8192 nodes (1 GiB of file) hang in a vector, so that a lookup is two loads; what lies
//! beyond, in files with holes, hangs in a tree. Frame 0 is never handed out, so it marks an empty place.

use super::huge::HugeState;
use crate::NoMemory;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ptshare_paging::Pfn;

const NODE_PAGES: usize = 32;
const NEAR_NODES: u64 = 8192;
const NONE: Pfn = Pfn(0);

struct Node {
    used: u32,
    frames: [Pfn; NODE_PAGES],
}

/// Page number -> frame.
pub(super) struct PageMap {
    near: Vec<Option<Box<Node>>>,
    far: BTreeMap<u64, Box<Node>>,
    len: u64,
    /// A hugetlb object's reservations, under the same lock.
    pub(super) huge: HugeState,
}

impl PageMap {
    pub(super) const fn new() -> Self {
        PageMap { near: Vec::new(), far: BTreeMap::new(), len: 0, huge: HugeState::new() }
    }

    /// Pages held.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn node(&self, number: u64) -> Option<&Node> {
        if number < NEAR_NODES {
            self.near.get(number as usize)?.as_deref()
        } else {
            self.far.get(&number).map(|n| &**n)
        }
    }

    fn node_mut(&mut self, number: u64) -> Option<&mut Node> {
        if number < NEAR_NODES {
            self.near.get_mut(number as usize)?.as_deref_mut()
        } else {
            self.far.get_mut(&number).map(|n| &mut **n)
        }
    }

    /// The frame at `index`.
    #[inline]
    pub(super) fn get(&self, index: u64) -> Option<Pfn> {
        let pfn = self.node(index / NODE_PAGES as u64)?.frames[index as usize % NODE_PAGES];
        (pfn != NONE).then_some(pfn)
    }

    /// Makes sure that [`PageMap::insert`] at `index` finds room.
    pub(super) fn room(&mut self, index: u64) -> Result<(), NoMemory> {
        let number = index / NODE_PAGES as u64;
        if number < NEAR_NODES && number as usize >= self.near.len() {
            let more = number as usize + 1 - self.near.len();
            self.near.try_reserve(more).map_err(|_| NoMemory)?;
            self.near.resize_with(number as usize + 1, || None);
        }
        Ok(())
    }

    /// Puts a frame at `index`, where none is. [`PageMap::room`] came before, under the same hold of the lock.
    pub(super) fn insert(&mut self, index: u64, pfn: Pfn) {
        let number = index / NODE_PAGES as u64;
        let node = if number < NEAR_NODES {
            self.near[number as usize].get_or_insert_with(Node::empty)
        } else {
            self.far.entry(number).or_insert_with(Node::empty)
        };
        debug_assert_eq!(node.frames[index as usize % NODE_PAGES], NONE);
        node.frames[index as usize % NODE_PAGES] = pfn;
        node.used += 1;
        self.len += 1;
    }

    /// Takes the first frame at or after `from` and before `to` out.
    pub(super) fn take_next(&mut self, from: u64, to: u64) -> Option<(u64, Pfn)> {
        let index = self.next_from(from).filter(|&index| index < to)?;
        let number = index / NODE_PAGES as u64;
        let node = self.node_mut(number)?;
        let pfn = core::mem::replace(&mut node.frames[index as usize % NODE_PAGES], NONE);
        node.used -= 1;
        if node.used == 0 {
            self.drop_node(number);
        }
        self.len -= 1;
        Some((index, pfn))
    }

    fn drop_node(&mut self, number: u64) {
        if number >= NEAR_NODES {
            self.far.remove(&number);
        } else if let Some(place) = self.near.get_mut(number as usize) {
            *place = None;
            while self.near.last().is_some_and(Option::is_none) {
                self.near.pop();
            }
        }
    }

    /// Index of the first frame at or after `from`.
    pub(super) fn next_from(&self, from: u64) -> Option<u64> {
        let first = from / NODE_PAGES as u64;
        let near = self.near.iter().enumerate().skip(first as usize);
        let near = near.filter_map(|(number, node)| Some((number as u64, node.as_deref()?)));
        let far = self.far.range(first.max(NEAR_NODES)..).map(|(number, node)| (*number, &**node));
        near.chain(far).find_map(|(number, node)| {
            let skip = if number == first { from as usize % NODE_PAGES } else { 0 };
            let at = node.frames.iter().skip(skip).position(|&pfn| pfn != NONE)?;
            Some(number * NODE_PAGES as u64 + (skip + at) as u64)
        })
    }

    /// Every frame, in order.
    pub(super) fn each(&self, f: &mut dyn FnMut(u64, Pfn)) {
        let near = self.near.iter().enumerate();
        let near = near.filter_map(|(number, node)| Some((number as u64, node.as_deref()?)));
        for (number, node) in near.chain(self.far.iter().map(|(number, node)| (*number, &**node))) {
            for (at, &pfn) in node.frames.iter().enumerate().filter(|(_, pfn)| **pfn != NONE) {
                f(number * NODE_PAGES as u64 + at as u64, pfn);
            }
        }
    }
}

impl Node {
    fn empty() -> Box<Node> {
        Box::new(Node { used: 0, frames: [NONE; NODE_PAGES] })
    }
}
