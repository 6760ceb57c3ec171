//! The state in which the operations run: three processes that share what can be shared.
//!
//! | from | what | pages that are there |
//! |---|---|---|
//! | `ANON` | private memory, 3 spans across the end of a PMD page's | [`MARKED`] of each span |
//! | `PRIVATE` | private writable mapping of a file, 2 spans | read, every second one written |
//! | `CODE` | private read-only mapping of it, 2 spans | read |
//! | `SHARED` | shared writable mapping of it, 2 spans | written |
//! | `VIEW` | shared read-only mapping of it, 2 spans | read |
//! | `START` | private mapping of the initramfs | read |
//! | `SEGMENT` | shared anonymous memory, 1 span | one written |
//! | `STACK` | a stack of 4 pages | one written |
//! | `HEAP` | the heap, 6 pages | written |
//! | `BARE` | private memory | none |
//! | `HUGE_SHARED` | shared mapping of 1 GiB of a hugetlb file | 2 written |
//! | `HUGE_PRIVATE` | private huge memory, 3 pages | 2 written |
//! | `HUGE_COPY` | private mapping of 2 pages of the hugetlb file | 1 read |
//!
//! Process 2 is process 1's child. Process 3 has the shared mappings at addresses of its own.

use ptshare_abi::sys::general as abi;
use ptshare_mm::testing::{FlatConfig, FlatKernel};
use ptshare_mm::{Env, Layout, Object, ObjectInfo, ObjectKind, Sharing};
use ptshare_paging::{Level, PAGE_BYTES};

pub const SPAN: u64 = Level::Pte.span_bytes();
pub const GIB: u64 = Level::Pmd.span_bytes();
pub const HUGE: u64 = Level::Pmd.entry_bytes();
pub const ANON: u64 = 0x10_4000_0000 - SPAN;
pub const PRIVATE: u64 = ANON + 8 * SPAN;
pub const CODE: u64 = ANON + 16 * SPAN;
pub const SHARED: u64 = ANON + 24 * SPAN;
pub const VIEW: u64 = ANON + 32 * SPAN;
pub const START: u64 = ANON + 40 * SPAN;
pub const SEGMENT: u64 = ANON + 48 * SPAN;
pub const STACK: u64 = ANON + 56 * SPAN + SPAN / 2;
pub const HEAP: u64 = ANON + 64 * SPAN + PAGE_BYTES;
pub const HEAP_END: u64 = HEAP + 6 * PAGE_BYTES;
/// Private memory of 2 pages that nobody has touched, and no table near it.
pub const BARE: u64 = 0x100_0000_0000;
/// Nothing is here, nor near.
pub const EMPTY: u64 = 0x30_0000_0000;
pub const HUGE_SHARED: u64 = 0x20_0000_0000;
pub const HUGE_PRIVATE: u64 = HUGE_SHARED + 2 * GIB;
pub const HUGE_COPY: u64 = HUGE_PRIVATE + 8 * HUGE;
/// The distance between process 3's shared mappings and process 1's.
pub const ELSEWHERE: u64 = 0x10_0000_0000;

pub const MARKED: [u64; 4] = [0, 1, 7, 511];
pub const FILE: usize = 0;
pub const HUGE_FILE: usize = 1;
pub const INITRAMFS: usize = 2;
const POOL: u64 = 16;
const INITRAMFS_BYTES: u64 = 4 * PAGE_BYTES + 1000;

pub const READ: u64 = abi::PROT_READ as u64;
pub const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
pub const FIXED_PRIVATE: u64 = (abi::MAP_FIXED | abi::MAP_PRIVATE) as u64;
pub const FIXED_SHARED: u64 = (abi::MAP_FIXED | abi::MAP_SHARED) as u64;
pub const ANONYMOUS: u64 = abi::MAP_ANONYMOUS as u64;
pub const HUGETLB: u64 = (abi::MAP_HUGETLB | abi::MAP_NORESERVE) as u64;

/// Which sharing is on.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub sharing: Sharing,
    pub share_file: bool,
    pub share_hugetlb: bool,
}

/// A kernel in this state, and what was free before.
pub struct State {
    pub kernel: FlatKernel,
    free_frames: u64,
}

impl State {
    /// Ends everything; then nothing may be left.
    pub fn end(mut self, when: &str) {
        let arena = self.kernel.arena().clone();
        for pid in self.kernel.pids() {
            self.kernel.exit(pid);
        }
        [FILE, HUGE_FILE, INITRAMFS].into_iter().for_each(|file| self.kernel.close(file));
        self.kernel.audit();
        assert_eq!(arena.free_frames(), self.free_frames, "{when}: frames are lost");
        assert_eq!(
            ptshare_mm::hugetlb::counts(&arena, ptshare_mm::hugetlb::HugeSize::Mib2),
            [POOL, POOL, 0, 0],
            "{when}: huge pages are lost"
        );
    }
}

fn marked(spans: u64) -> impl Iterator<Item = u64> {
    (0..spans).flat_map(|span| MARKED.map(|page| span * SPAN + page * PAGE_BYTES))
}

/// Builds it.
pub fn state(world: World) -> State {
    let mut kernel = FlatKernel::new(FlatConfig {
        frames: 4096 + 512 * POOL as usize,
        huge_pages: POOL,
        sharing: world.sharing,
        share_file: world.share_file,
        share_hugetlb: world.share_hugetlb,
        ..FlatConfig::default()
    });
    let free_frames = kernel.arena().free_frames() + 1;
    open(&mut kernel);
    kernel.set_layout(1, Layout { start_brk: HEAP, brk: HEAP, ..Layout::default() });
    private(&kernel);
    shared(&kernel, 1, 0);
    assert_eq!(kernel.fork(1), Ok(2));
    assert_eq!(kernel.spawn(), Ok(3));
    shared(&kernel, 3, ELSEWHERE);
    State { kernel, free_frames }
}

fn open(kernel: &mut FlatKernel) {
    assert_eq!(kernel.memfd(2 * SPAN + PAGE_BYTES), FILE);
    for (n, offset) in marked(2).enumerate() {
        kernel.pwrite(FILE, offset, 100 + n as u64).unwrap();
    }
    assert_eq!(kernel.memfd_huge(GIB), HUGE_FILE);
    let arena = kernel.arena().clone();
    // Frames that the arena does not manage.
    let pa = 8 * PAGE_BYTES;
    arena.write_phys(pa, &[7; INITRAMFS_BYTES as usize]);
    let kind = ObjectKind::Initramfs { pa, bytes: INITRAMFS_BYTES };
    let info = ObjectInfo::new(1, 9, "/init".into());
    assert_eq!(kernel.add_file(Object::new(arena, kind, info)), INITRAMFS);
}

fn map(kernel: &FlatKernel, pid: u32, at: u64, len: u64, prot: u64, flags: u64, file: Option<(usize, u64)>) {
    assert_eq!(kernel.mmap(pid, at, len, prot, flags, file), Ok(at));
}

fn private(kernel: &FlatKernel) {
    map(kernel, 1, ANON, 3 * SPAN, RW, FIXED_PRIVATE | ANONYMOUS, None);
    for (n, offset) in marked(3).enumerate() {
        kernel.store(1, ANON + offset, 1000 + n as u64).unwrap();
    }
    map(kernel, 1, PRIVATE, 2 * SPAN, RW, FIXED_PRIVATE, Some((FILE, 0)));
    for (n, offset) in marked(2).enumerate() {
        kernel.load(1, PRIVATE + offset).unwrap();
        if n % 2 == 0 {
            kernel.store(1, PRIVATE + offset + 8, 2000 + n as u64).unwrap();
        }
    }
    map(kernel, 1, START, 2 * PAGE_BYTES, RW, FIXED_PRIVATE, Some((INITRAMFS, 0)));
    kernel.load(1, START).unwrap();
    let grows = u64::from(abi::MAP_GROWSDOWN);
    map(kernel, 1, STACK, 4 * PAGE_BYTES, RW, FIXED_PRIVATE | ANONYMOUS | grows, None);
    kernel.store(1, STACK + PAGE_BYTES, 3000).unwrap();
    assert_eq!(kernel.brk(1, HEAP_END), HEAP_END);
    for page in 0..6 {
        kernel.store(1, HEAP + page * PAGE_BYTES, 4000 + page).unwrap();
    }
    map(kernel, 1, BARE, 2 * PAGE_BYTES, RW, FIXED_PRIVATE | ANONYMOUS, None);
    map(kernel, 1, HUGE_PRIVATE, 3 * HUGE, RW, FIXED_PRIVATE | ANONYMOUS | HUGETLB, None);
    kernel.store(1, HUGE_PRIVATE, 5000).unwrap();
    kernel.store(1, HUGE_PRIVATE + 2 * HUGE, 5002).unwrap();
}

fn shared(kernel: &FlatKernel, pid: u32, away: u64) {
    let at = |addr: u64| addr + away;
    map(kernel, pid, at(CODE), 2 * SPAN, READ, FIXED_PRIVATE, Some((FILE, 0)));
    map(kernel, pid, at(SHARED), 2 * SPAN, RW, FIXED_SHARED, Some((FILE, 0)));
    map(kernel, pid, at(VIEW), 2 * SPAN, READ, FIXED_SHARED, Some((FILE, 0)));
    for offset in marked(2) {
        kernel.load(pid, at(CODE) + offset).unwrap();
        kernel.store(pid, at(SHARED) + offset + 16, 6000 + offset).unwrap();
        kernel.load(pid, at(VIEW) + offset).unwrap();
    }
    map(kernel, pid, at(SEGMENT), SPAN, RW, FIXED_SHARED | ANONYMOUS, None);
    kernel.store(pid, at(SEGMENT) + 3 * PAGE_BYTES, 7000).unwrap();
    map(kernel, pid, at(HUGE_SHARED), GIB, RW, FIXED_SHARED | HUGETLB, Some((HUGE_FILE, 0)));
    kernel.store(pid, at(HUGE_SHARED), 8000).unwrap();
    kernel.store(pid, at(HUGE_SHARED) + 511 * HUGE, 8511).unwrap();
    map(kernel, pid, at(HUGE_COPY), 2 * HUGE, RW, FIXED_PRIVATE | HUGETLB, Some((HUGE_FILE, 0)));
    assert_eq!(kernel.load(pid, at(HUGE_COPY)), Ok(8000));
}
