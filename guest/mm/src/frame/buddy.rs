//! The frame allocator: blocks of `1 << order` frames, linked through the metadata of their first frames.
//!
//! ```text
//!  RamRange:  start ........ virgin .................. end
//!             in use, or on     never handed out: zero,
//!             a free list       metadata zero, not listed
//! ```
//!
//! What a boot must not do is touch every frame, so nothing is initialised: order-0 frames come off `virgin` one by
//! one, and a larger block rounds `virgin` up and lists what it skipped. What a free must not do is look around, so
//! blocks are not merged when freed: a request for a large block that no list can meet *assembles* one, by looking for
//! an aligned block whose frames are all free. For each order there are two lists, of blocks known to be zero and of
//! others, so that a known-zero frame is never cleared again.
//!
//! Invariants: a listed block's first frame has `state` Free with `FLAG_HEAD`, its order, `FLAG_ZEROED` if so, links in
//! `a` (next) and `b` (previous); its other frames have `state` 0. `free_frames` of the census counts listed frames.
//! Everything here runs under the allocator's lock. Frame 0 is never managed: it ends lists.

mod run;

use super::{Priority, kind_bits};
use crate::Env;
use crate::hugetlb::{HugePools, HugeSize};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_wire::CensusHeader;
use ptshare_wire::census::RAM_RANGES_MAX;
use ptshare_wire::frame::{FLAG_HEAD, FLAG_ZEROED, FrameKind, state};

/// Largest block: `1 << MAX_ORDER` frames. 9 is 2 MiB.
pub const MAX_ORDER: usize = 9;

/// How many listed blocks a search for an assembled block looks at before it gives up.
const ASSEMBLE_TRIES: usize = 16384;

/// List of blocks whose content is unknown.
const DIRTY: usize = 0;
/// List of blocks whose content is zero.
const ZEROED: usize = 1;

/// The frame allocator. Lives under [`Env::allocator`].
#[derive(Debug)]
pub struct Buddy {
    /// First frame of the first listed block, by [`DIRTY`]/[`ZEROED`] and order; 0 for an empty list.
    heads: [[u64; MAX_ORDER + 1]; 2],
    /// Index of the RAM range whose virgin frames are handed out next.
    range: usize,
    /// Virgin frames in all ranges.
    virgin_left: u64,
    /// Frames that [`Priority::User`] leaves alone.
    reserve: u64,
    /// The hugetlb pools: they change with the free lists, so they share their lock.
    pub(crate) huge: HugePools,
    /// What virgin frames are: [`ZEROED`], or [`DIRTY`] on a machine whose firmware has used memory before.
    virgin_class: usize,
}

impl Buddy {
    /// An allocator that manages nothing yet.
    pub const fn new() -> Buddy {
        Buddy {
            heads: [[0; MAX_ORDER + 1]; 2],
            range: 0,
            virgin_left: 0,
            reserve: 0,
            huge: HugePools::new(),
            virgin_class: ZEROED,
        }
    }

    /// Takes over the RAM ranges of the census, of which nothing below `virgin` is free, and keeps `reserve` frames
    /// from user allocations. Costs the same for any amount of RAM.
    pub fn attach(&mut self, census: &CensusHeader, reserve_frames: u64) {
        self.reserve = reserve_frames;
        self.virgin_left =
            census.ram.iter().map(|r| r.end.load(Relaxed).saturating_sub(r.virgin.load(Relaxed))).sum();
    }

    /// Virgin frames may hold anything from now on: the firmware of this machine has used memory before. (SeaBIOS, under
    /// QEMU, runs at the top of RAM and calls it free afterwards.)
    pub fn distrust_virgin(&mut self) {
        self.virgin_class = DIRTY;
    }

    /// Frames that are free: listed and virgin.
    #[inline]
    pub fn free_frames(&self, census: &CensusHeader) -> u64 {
        census.free_frames.load(Relaxed) + self.virgin_left
    }

    /// Frames kept back for the kernel.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Changes how many frames user allocations leave alone.
    pub fn set_reserve(&mut self, frames: u64) {
        self.reserve = frames;
    }

    #[inline]
    fn may_take<E: Env>(&self, env: &E, pages: u64, priority: Priority) -> bool {
        match priority {
            Priority::User => self.free_frames(env.census()) >= self.reserve + pages && env.may_allocate(),
            Priority::Kernel => true,
        }
    }

    /// Takes one frame, whose `state` becomes `new_state`; says whether its content is zero. First choice is a frame
    /// known to be zero if `keep_zero`, another one if not; then memory never touched; then the other list. So known-zero
    /// frames, most of which were tables, become tables again, which only the CPU itself may clear
    /// ([`Env::zero_table`]).
    #[inline]
    pub fn take_frame<E: Env>(
        &mut self,
        env: &E,
        keep_zero: bool,
        new_state: u32,
        priority: Priority,
    ) -> Option<(Pfn, bool)> {
        if !self.may_take(env, 1, priority) {
            return None;
        }
        let class = keep_zero as usize;
        if self.heads[class][0] != 0 {
            return Some(self.pop_frame(env, class, new_state));
        }
        self.take_virgin_frame(env, new_state).or_else(|| self.alloc(env, 0, keep_zero, new_state, priority))
    }

    /// Takes the first frame of an order-0 list that is not empty.
    #[inline]
    fn pop_frame<E: Env>(&mut self, env: &E, class: usize, new_state: u32) -> (Pfn, bool) {
        let pfn = Pfn(self.heads[class][0]);
        let meta = env.meta(pfn);
        let next = meta.a.load(Relaxed);
        self.heads[class][0] = next;
        if next != 0 {
            env.meta(Pfn(next)).b.store(0, Relaxed);
        }
        meta.state.store(new_state, Relaxed);
        add_free(env, u64::MAX);
        (pfn, class == ZEROED)
    }

    #[inline]
    fn take_virgin_frame<E: Env>(&mut self, env: &E, new_state: u32) -> Option<(Pfn, bool)> {
        let range = env.census().ram.get(self.range)?;
        let pfn = range.virgin.load(Relaxed);
        if pfn >= range.end.load(Relaxed) {
            return None;
        }
        range.virgin.store(pfn + 1, Relaxed);
        self.virgin_left -= 1;
        env.meta(Pfn(pfn)).state.store(new_state, Relaxed);
        Some((Pfn(pfn), self.virgin_class == ZEROED))
    }

    /// Takes `1 << order` consecutive frames, aligned to their number; `state` of each becomes `new_state`. Says whether
    /// their content is zero. `None` when there is no such block, or `order` is above [`MAX_ORDER`].
    pub fn alloc<E: Env>(
        &mut self,
        env: &E,
        order: usize,
        zeroed: bool,
        new_state: u32,
        priority: Priority,
    ) -> Option<(Pfn, bool)> {
        if order > MAX_ORDER || !self.may_take(env, 1 << order, priority) {
            return None;
        }
        let (first, class) = self
            .take_listed(env, order, zeroed as usize)
            .or_else(|| self.carve(env, order))
            .or_else(|| self.assemble(env, order))?;
        for i in 0..1u64 << order {
            env.meta(Pfn(first + i)).state.store(new_state, Relaxed);
        }
        Some((Pfn(first), class == ZEROED))
    }

    /// Takes the frames of a huge page, aligned, of which only the first gets a `state`; the others stay as they are in a
    /// free block, in state 0. Says whether the content is zero.
    pub(crate) fn take_whole<E: Env>(
        &mut self,
        env: &E,
        size: HugeSize,
        new_state: u32,
    ) -> Option<(Pfn, bool)> {
        if !self.may_take(env, size.frames(), Priority::User) {
            return None;
        }
        let (first, class) = match size {
            HugeSize::Mib2 => self
                .take_listed(env, MAX_ORDER, ZEROED)
                .or_else(|| self.carve(env, MAX_ORDER))
                .or_else(|| self.assemble(env, MAX_ORDER))?,
            HugeSize::Gib1 => self.take_run(env, size.order())?,
        };
        env.meta(Pfn(first)).state.store(new_state, Relaxed);
        Some((Pfn(first), class == ZEROED))
    }

    /// Gives the frames of [`Buddy::take_whole`] back; their content is zero if `zeroed`.
    pub(crate) fn give_whole<E: Env>(&mut self, env: &E, size: HugeSize, first: Pfn, zeroed: bool) {
        for block in (0..size.frames()).step_by(1 << MAX_ORDER) {
            self.push(env, first.0 + block, MAX_ORDER, zeroed as usize);
        }
    }

    /// Gives back a block. No one refers to it any more; its content is zero if `zeroed`.
    #[inline]
    pub fn free<E: Env>(&mut self, env: &E, pfn: Pfn, order: usize, zeroed: bool) {
        if order > 0 {
            for i in 1..1u64 << order {
                env.meta(pfn.add(i)).state.store(0, Relaxed);
            }
        }
        self.push(env, pfn.0, order, zeroed as usize);
    }

    /// A block off the lists: of this order, or the near end of the smallest larger one.
    fn take_listed<E: Env>(&mut self, env: &E, order: usize, want: usize) -> Option<(u64, usize)> {
        for size in order..=MAX_ORDER {
            for class in [want, want ^ 1] {
                let first = self.heads[class][size];
                if first == 0 {
                    continue;
                }
                self.remove(env, first, size, class);
                for half in (order..size).rev() {
                    self.push(env, first + (1 << half), half, class);
                }
                return Some((first, class));
            }
        }
        None
    }

    /// A block of virgin memory. What alignment skips goes to the lists.
    fn carve<E: Env>(&mut self, env: &E, order: usize) -> Option<(u64, usize)> {
        for (i, range) in env.census().ram.iter().enumerate() {
            let (virgin, end) = (range.virgin.load(Relaxed), range.end.load(Relaxed));
            let first = virgin.next_multiple_of(1 << order);
            if virgin >= end || first + (1 << order) > end {
                continue;
            }
            range.virgin.store(first + (1 << order), Relaxed);
            self.virgin_left -= first + (1 << order) - virgin;
            self.list_skipped(env, virgin, first);
            if order == 0 {
                self.range = i;
            }
            return Some((first, self.virgin_class));
        }
        None
    }

    /// Lists virgin frames that an allocation further up has passed over.
    fn list_skipped<E: Env>(&mut self, env: &E, mut skipped: u64, end: u64) {
        while skipped < end {
            let order = (skipped.trailing_zeros()).min((end - skipped).ilog2()) as usize;
            self.push(env, skipped, order.min(MAX_ORDER), self.virgin_class);
            skipped += 1 << order.min(MAX_ORDER);
        }
    }

    /// A block made of smaller listed ones that happen to lie side by side.
    fn assemble<E: Env>(&mut self, env: &E, order: usize) -> Option<(u64, usize)> {
        let mut tries = 0;
        for size in 0..order {
            for class in [DIRTY, ZEROED] {
                let mut at = self.heads[class][size];
                let mut failed = u64::MAX;
                while at != 0 && tries < ASSEMBLE_TRIES {
                    let first = at & !((1 << order) - 1);
                    if first != failed {
                        if let Some(class) = whole_block(env, first, order) {
                            self.remove_parts(env, first, first + (1 << order));
                            return Some((first, class));
                        }
                        failed = first;
                    }
                    tries += 1;
                    at = env.meta(Pfn(at)).a.load(Relaxed);
                }
            }
        }
        None
    }

    /// Takes the listed blocks that `[first, end)` is made of off their lists.
    fn remove_parts<E: Env>(&mut self, env: &E, first: u64, end: u64) {
        let mut at = first;
        while at < end {
            let (size, class) = head_of(env.meta(Pfn(at)).state.load(Relaxed));
            self.remove(env, at, size, class);
            at += 1 << size;
        }
    }

    #[inline]
    fn push<E: Env>(&mut self, env: &E, first: u64, order: usize, class: usize) {
        let meta = env.meta(Pfn(first));
        let next = self.heads[class][order];
        let flags = FLAG_HEAD | if class == ZEROED { FLAG_ZEROED } else { 0 };
        let written = order as u8 + u8::from(mutant!(FREE_BLOCK_TOO_LARGE) && order == 0);
        meta.state.store(state(FrameKind::Free, written, flags), Relaxed);
        meta.aux.store(0, Relaxed);
        meta.a.store(next, Relaxed);
        meta.b.store(0, Relaxed);
        if next != 0 {
            env.meta(Pfn(next)).b.store(first, Relaxed);
        }
        self.heads[class][order] = first;
        if mutant!(FREE_COUNT_DRIFTS) && class == ZEROED {
            return;
        }
        add_free(env, 1 << order);
    }

    fn remove<E: Env>(&mut self, env: &E, first: u64, order: usize, class: usize) {
        let meta = env.meta(Pfn(first));
        let (next, previous) = (meta.a.load(Relaxed), meta.b.load(Relaxed));
        if previous != 0 {
            env.meta(Pfn(previous)).a.store(next, Relaxed);
        } else {
            self.heads[class][order] = next;
        }
        if next != 0 {
            env.meta(Pfn(next)).b.store(previous, Relaxed);
        }
        meta.state.store(0, Relaxed);
        add_free(env, (1u64 << order).wrapping_neg());
    }
}

impl Default for Buddy {
    fn default() -> Self {
        Buddy::new()
    }
}

/// Changes the census' count of listed frames; the allocator's lock makes it exact.
#[inline]
fn add_free<E: Env>(env: &E, frames: u64) {
    let count = &env.census().free_frames;
    count.store(count.load(Relaxed).wrapping_add(frames), Relaxed);
}

/// Order and list of a free block, from its head's `state`.
fn head_of(state: u32) -> (usize, usize) {
    ((state >> 8 & 0xff) as usize, if state & FLAG_ZEROED != 0 { ZEROED } else { DIRTY })
}

/// Are all frames of this aligned block on free lists? Then: the class that the whole has.
fn whole_block<E: Env>(env: &E, first: u64, order: usize) -> Option<usize> {
    let end = first + (1 << order);
    let managed = |i: usize| {
        let range = &env.census().ram[i];
        first >= range.start.load(Relaxed) && end <= range.virgin.load(Relaxed)
    };
    if !(0..RAM_RANGES_MAX).any(managed) {
        return None;
    }
    listed_class(env, first, end)
}

/// Are all of these frames on free lists, in blocks that end where the range does? Then: the class that the whole has.
fn listed_class<E: Env>(env: &E, first: u64, end: u64) -> Option<usize> {
    let mut class = ZEROED;
    let mut at = first;
    while at < end {
        let state = env.meta(Pfn(at)).state.load(Relaxed);
        if kind_bits(state) != FrameKind::Free as u32 || state & FLAG_HEAD == 0 {
            return None;
        }
        let (size, part) = head_of(state);
        class &= part;
        at += 1 << size;
    }
    Some(class)
}
