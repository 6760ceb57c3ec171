//! Random calls on several address spaces that share objects and tables, against a flat model of what every page must
//! read. After each call the arena's audit checks the books; at the end nothing may be left.

use proptest::prelude::*;
use ptshare_abi::sys::general as abi;
use ptshare_mm::testing::Arena;
use ptshare_mm::{
    Env, FaultOutcome, MapRequest, Mm, MmError, Object, ObjectError, ObjectInfo, ObjectKind, Sharing,
};
use ptshare_paging::PAGE_BYTES;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The pages that the calls are about: three PTE pages and a bit.
const BASE: u64 = 0x4000_0000 + 510 * PAGE_BYTES;
const SPACE: u64 = 1100;
/// Physical address of the initramfs content, in frames that the arena does not manage.
const INITRAMFS_PA: u64 = 8 * PAGE_BYTES;
const INITRAMFS_BYTES: u64 = 3 * PAGE_BYTES - 1000;
const PROCESSES: usize = 4;

const READ: u32 = abi::PROT_READ;
const RW: u32 = abi::PROT_READ | abi::PROT_WRITE;
const RX: u32 = abi::PROT_READ | abi::PROT_EXEC;

/// First and last word of a page.
type Content = [u64; 2];

#[derive(Clone, Debug)]
enum Back {
    Anon(Content),
    /// A page of an object, and the private copy of it if there is one.
    Private {
        object: usize,
        index: u64,
        copy: Option<Content>,
    },
    Shared {
        object: usize,
        index: u64,
    },
}

#[derive(Clone, Debug)]
struct PageModel {
    prot: u32,
    dont_fork: bool,
    wipe: bool,
    back: Back,
}

#[derive(Default)]
struct ObjectModel {
    size: u64,
    pages: BTreeMap<u64, Content>,
}

impl ObjectModel {
    fn reaches(&self, index: u64) -> bool {
        index < self.size.div_ceil(PAGE_BYTES)
    }

    fn page(&mut self, index: u64) -> &mut Content {
        self.pages.entry(index).or_default()
    }

    /// Clears the bytes of a page from `used` on.
    fn cut(&mut self, size: u64) {
        let used = size % PAGE_BYTES;
        if used > 0
            && let Some(page) = self.pages.get_mut(&(size / PAGE_BYTES))
        {
            page[1] = 0;
        }
    }
}

struct Process {
    mm: Arc<Mm<Arena>>,
    pages: BTreeMap<u64, PageModel>,
}

struct World {
    arena: Arena,
    processes: Vec<Option<Process>>,
    objects: Vec<(Option<Arc<Object<Arena>>>, ObjectModel)>,
}

#[derive(Clone, Debug)]
enum Kind {
    Anon,
    SharedAnon,
    Private(usize, u64),
    Shared(usize, u64),
}

#[derive(Clone, Debug)]
enum Call {
    Map {
        at: u64,
        pages: u64,
        prot: u32,
        kind: Kind,
        fixed: bool,
        populate: bool,
    },
    Unmap {
        at: u64,
        pages: u64,
    },
    Protect {
        at: u64,
        pages: u64,
        prot: u32,
    },
    Advise {
        at: u64,
        pages: u64,
        advice: u32,
    },
    Remap {
        at: u64,
        old: u64,
        new: u64,
        to: Option<u64>,
        dont_unmap: bool,
    },
    Load {
        at: u64,
    },
    Store {
        at: u64,
        word: bool,
        value: u64,
    },
    /// Stores to several pages in a row.
    Fill {
        at: u64,
        pages: u64,
        value: u64,
    },
    Fork {
        mode: Sharing,
        small: u32,
    },
    Exit,
    Truncate {
        object: usize,
        bytes: u64,
    },
    Punch {
        object: usize,
        page: u64,
        pages: u64,
    },
    Write {
        object: usize,
        page: u64,
        value: u64,
    },
    Poke {
        at: u64,
        value: u64,
    },
}

fn places() -> impl Strategy<Value = u64> {
    // Near the borders of PTE pages more often than not.
    prop_oneof![0..SPACE, 0..8_u64, 508..520_u64, 1020..1034_u64]
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 1..6_u64, 2 => 500..530_u64, 1 => 1..600_u64]
}

fn ranges() -> impl Strategy<Value = (u64, u64)> {
    (places(), lengths()).prop_map(|(at, pages)| (at, pages.min(SPACE - at)))
}

/// Mappings of an object over whole PTE pages, many of them of the same part of it: tables that can be shared.
fn spans() -> impl Strategy<Value = Call> {
    let range = prop::sample::select(vec![(2, 512), (2, 1024), (514, 512), (514, 530), (0, 1026)]);
    let prot = prop::sample::select(vec![READ, READ, RW, RW]);
    let kind = (0..3_usize, prop::bool::weighted(0.3)).prop_map(|(object, private)| {
        if private { Kind::Private(object, 0) } else { Kind::Shared(object, 0) }
    });
    (range, prot, kind).prop_map(|((at, pages), prot, kind)| Call::Map {
        at,
        pages,
        prot,
        kind,
        fixed: true,
        populate: false,
    })
}

fn calls() -> impl Strategy<Value = Call> {
    let prot = || prop::sample::select(vec![0, READ, RW, RW, RW, RX]);
    let kind = prop_oneof![
        4 => Just(Kind::Anon),
        1 => Just(Kind::SharedAnon),
        2 => (0..3_usize, 0..4_u64).prop_map(|(object, index)| Kind::Private(object, index)),
        2 => (0..3_usize, 0..4_u64).prop_map(|(object, index)| Kind::Shared(object, index)),
    ];
    let advice = prop::sample::select(vec![
        abi::MADV_DONTNEED,
        abi::MADV_DONTNEED,
        abi::MADV_FREE,
        abi::MADV_DONTFORK,
        abi::MADV_DOFORK,
        abi::MADV_WIPEONFORK,
        abi::MADV_KEEPONFORK,
        abi::MADV_RANDOM,
        abi::MADV_SEQUENTIAL,
        abi::MADV_POPULATE_READ,
        abi::MADV_POPULATE_WRITE,
        abi::MADV_REMOVE,
    ]);
    let mode = prop::sample::select(vec![Sharing::None, Sharing::Pte, Sharing::Pte, Sharing::Tree]);
    prop_oneof![
        5 => (ranges(), prot(), kind, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |((at, pages), prot, kind, fixed, populate)| Call::Map { at, pages, prot, kind, fixed, populate }
        ),
        3 => spans(),
        2 => ranges().prop_map(|(at, pages)| Call::Unmap { at, pages }),
        3 => (ranges(), prot()).prop_map(|((at, pages), prot)| Call::Protect { at, pages, prot }),
        3 => (ranges(), advice).prop_map(|((at, pages), advice)| Call::Advise { at, pages, advice }),
        3 => (ranges(), lengths(), prop::option::of(places()), prop::bool::weighted(0.2)).prop_map(
            |((at, old), new, to, dont_unmap)| Call::Remap { at, old, new, to, dont_unmap }
        ),
        5 => places().prop_map(|at| Call::Load { at }),
        6 => (places(), any::<bool>(), 1..1000_u64).prop_map(|(at, word, value)| Call::Store { at, word, value }),
        2 => (ranges(), 1..1000_u64).prop_map(|((at, pages), value)| Call::Fill { at, pages, value }),
        4 => (mode, prop::sample::select(vec![0, 0, 3])).prop_map(|(mode, small)| Call::Fork { mode, small }),
        1 => Just(Call::Exit),
        1 => (0..3_usize, 0..6 * PAGE_BYTES).prop_map(|(object, bytes)| Call::Truncate { object, bytes: bytes / 8 * 8 }),
        1 => (0..3_usize, 0..5_u64, 1..3_u64).prop_map(|(object, page, pages)| Call::Punch { object, page, pages }),
        1 => (0..3_usize, 0..5_u64, 1..1000_u64).prop_map(|(object, page, value)| Call::Write { object, page, value }),
        1 => (places(), 1..1000_u64).prop_map(|(at, value)| Call::Poke { at, value }),
    ]
}

fn va(page: u64) -> u64 {
    BASE + page * PAGE_BYTES
}

fn key(addr: u64) -> u64 {
    addr / PAGE_BYTES
}

impl World {
    fn new() -> World {
        let arena = Arena::new(16384);
        let info = |n| ObjectInfo::new(1, n, format!("/file{n}"));
        let mut objects = vec![];
        for n in 0..2 {
            let object = Object::new(arena.clone(), ObjectKind::Tmpfs, info(n));
            object.truncate(3 * PAGE_BYTES).unwrap();
            objects.push((Some(object), ObjectModel { size: 3 * PAGE_BYTES, ..ObjectModel::default() }));
        }
        let mut model = ObjectModel { size: INITRAMFS_BYTES, ..ObjectModel::default() };
        for page in 0..3 {
            let words = [7000 + page, 8000 + page];
            arena.write_phys(INITRAMFS_PA + page * PAGE_BYTES, &words[0].to_le_bytes());
            arena.write_phys(INITRAMFS_PA + (page + 1) * PAGE_BYTES - 8, &words[1].to_le_bytes());
            *model.page(page) = words;
        }
        model.cut(INITRAMFS_BYTES);
        let kind = ObjectKind::Initramfs { pa: INITRAMFS_PA, bytes: INITRAMFS_BYTES };
        objects.push((Some(Object::new(arena.clone(), kind, info(2))), model));
        let init = Process { mm: Mm::new(arena.clone()).unwrap(), pages: BTreeMap::new() };
        let mut processes = vec![Some(init)];
        processes.resize_with(PROCESSES, || None);
        World { arena, processes, objects }
    }

    fn audit(&self) {
        let mms: Vec<&Mm<Arena>> = self.processes.iter().flatten().map(|process| &*process.mm).collect();
        self.arena.audit(&mms);
    }

    /// The outcome of an access to a page, and its content if it is allowed.
    fn expect(&mut self, who: usize, page: u64, write: bool) -> Result<&mut Content, FaultOutcome> {
        let Some(process) = self.processes[who].as_mut() else { return Err(FaultOutcome::SegvMapErr) };
        let Some(model) = process.pages.get_mut(&page) else { return Err(FaultOutcome::SegvMapErr) };
        if model.prot == 0 || (write && model.prot & abi::PROT_WRITE == 0) {
            return Err(FaultOutcome::SegvAccErr);
        }
        match &mut model.back {
            Back::Anon(content) => Ok(content),
            Back::Shared { object, index } | Back::Private { object, index, copy: None }
                if !self.objects[*object].1.reaches(*index) =>
            {
                Err(FaultOutcome::BusAdrErr)
            }
            Back::Shared { object, index } => Ok(self.objects[*object].1.page(*index)),
            Back::Private { copy: Some(copy), .. } => Ok(copy),
            Back::Private { object, index, copy } => {
                let original = self.objects[*object].1.page(*index);
                if write { Ok(copy.insert(*original)) } else { Ok(original) }
            }
        }
    }

    fn check_load(&mut self, who: usize, page: u64) {
        let Some(mm) = self.processes[who].as_ref().map(|process| process.mm.clone()) else { return };
        let addr = page * PAGE_BYTES;
        let expected = self.expect(who, page, false).copied();
        let first = self.arena.user_load(&mm, addr);
        assert_eq!(first, expected.map(|content| content[0]), "first word at {addr:#x} of process {who}");
        if let Ok(content) = expected {
            assert_eq!(
                self.arena.user_load(&mm, addr + PAGE_BYTES - 8),
                Ok(content[1]),
                "last word at {addr:#x}"
            );
        }
    }

    fn store(&mut self, who: usize, page: u64, word: bool, value: u64) {
        let Some(mm) = self.processes[who].as_ref().map(|process| process.mm.clone()) else { return };
        let addr = page * PAGE_BYTES + if word { PAGE_BYTES - 8 } else { 0 };
        let done = self.arena.user_store(&mm, addr, value);
        if done == Err(FaultOutcome::OutOfMemory) {
            return;
        }
        let expected = self.expect(who, page, true).map(|content| content[usize::from(word)] = value);
        assert_eq!(done, expected, "store at {addr:#x} of process {who}");
    }

    fn run(&mut self, pick: usize, call: Call) {
        let live: Vec<usize> = (0..PROCESSES).filter(|&n| self.processes[n].is_some()).collect();
        let who = live[pick % live.len()];
        match call {
            Call::Load { at } => {
                self.arena.unlimited();
                self.check_load(who, key(va(at)));
            }
            Call::Store { at, word, value } => self.store(who, key(va(at)), word, value),
            Call::Fill { at, pages, value } => {
                for n in at..at + pages.min(20) {
                    self.store(who, key(va(n)), false, value + n);
                }
            }
            Call::Fork { mode, small } => self.fork(who, mode, small),
            Call::Exit => {
                if live.len() > 1 {
                    self.processes[who] = None;
                }
            }
            Call::Truncate { object, bytes } => self.truncate(object, bytes),
            Call::Punch { object, page, pages } => self.punch(object, page, pages),
            Call::Write { object, page, value } => self.write(object, page, value),
            call => self.change(who, call),
        }
    }

    fn change(&mut self, who: usize, call: Call) {
        match call {
            Call::Map { at, pages, prot, kind, fixed, populate } => {
                self.map(who, at, pages, prot, kind, fixed, populate);
            }
            Call::Unmap { at, pages } => {
                let process = self.processes[who].as_mut().unwrap();
                match process.mm.munmap(va(at), pages * PAGE_BYTES) {
                    Ok(()) => {
                        process.pages.retain(|&page, _| page < key(va(at)) || page >= key(va(at + pages)))
                    }
                    Err(error) => assert_eq!(error, MmError::NoMemory),
                }
            }
            Call::Protect { at, pages, prot } => self.protect(who, at, pages, prot),
            Call::Advise { at, pages, advice } => self.advise(who, at, pages, advice),
            Call::Remap { at, old, new, to, dont_unmap } => self.remap(who, at, old, new, to, dont_unmap),
            Call::Poke { at, value } => {
                let mm = self.processes[who].as_ref().unwrap().mm.clone();
                let written = mm.write_user(va(at), &value.to_le_bytes());
                if written == Err(MmError::NoMemory) {
                    return;
                }
                let expected = self.expect(who, key(va(at)), true).map(|content| content[0] = value);
                assert_eq!(written, expected.map_err(|_| MmError::Fault));
                if expected.is_ok() {
                    let mut back = [0; 8];
                    self.arena.unlimited();
                    mm.read_user(va(at), &mut back).unwrap();
                    assert_eq!(u64::from_le_bytes(back), value);
                }
            }
            _ => unreachable!(),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn map(&mut self, who: usize, at: u64, pages: u64, prot: u32, kind: Kind, fixed: bool, populate: bool) {
        let mut flags = if fixed { abi::MAP_FIXED } else { 0 };
        // Populating private writable pages of a file copies them at once, as many as there is memory for.
        let copies = matches!(kind, Kind::Private(..)) && prot & abi::PROT_WRITE != 0;
        flags |= if populate && !copies { abi::MAP_POPULATE } else { 0 };
        flags |= match kind {
            Kind::Anon => abi::MAP_PRIVATE | abi::MAP_ANONYMOUS,
            Kind::SharedAnon => abi::MAP_SHARED | abi::MAP_ANONYMOUS,
            Kind::Private(..) => abi::MAP_PRIVATE,
            Kind::Shared(..) => abi::MAP_SHARED,
        };
        let object = match kind {
            Kind::Private(object, index) | Kind::Shared(object, index) => {
                Some((self.objects[object].0.clone().unwrap(), index))
            }
            Kind::Anon | Kind::SharedAnon => None,
        };
        let request = MapRequest {
            addr: va(at),
            len: pages * PAGE_BYTES,
            prot: prot.into(),
            flags: flags.into(),
            object,
            file_readable: true,
            file_writable: true,
        };
        let process = self.processes[who].as_mut().unwrap();
        let addr = match process.mm.mmap(request) {
            Ok(addr) => addr,
            Err(error) => {
                assert_eq!(error, MmError::NoMemory);
                return;
            }
        };
        if fixed {
            assert_eq!(addr, va(at));
        }
        if let Kind::SharedAnon = kind {
            let size = pages * PAGE_BYTES;
            self.objects.push((None, ObjectModel { size, ..ObjectModel::default() }));
        }
        let last = self.objects.len() - 1;
        for n in 0..pages {
            let back = match kind {
                Kind::Anon => Back::Anon([0; 2]),
                Kind::SharedAnon => Back::Shared { object: last, index: n },
                Kind::Private(object, index) => Back::Private { object, index: index + n, copy: None },
                Kind::Shared(object, index) => Back::Shared { object, index: index + n },
            };
            let page = PageModel { prot, dont_fork: false, wipe: false, back };
            let before = process.pages.insert(key(addr) + n, page);
            assert!(fixed || before.is_none(), "placed over an existing mapping");
        }
    }

    fn protect(&mut self, who: usize, at: u64, pages: u64, prot: u32) {
        let process = self.processes[who].as_mut().unwrap();
        let (first, last) = (key(va(at)), key(va(at + pages)));
        let done = process.mm.mprotect(va(at), pages * PAGE_BYTES, prot.into());
        let hole = (first..last).find(|page| !process.pages.contains_key(page));
        match done {
            Err(MmError::NoMemory) => return,
            Ok(()) => assert_eq!(hole, None),
            Err(error) => assert!(error == MmError::NotMapped && hole.is_some(), "{error:?}"),
        }
        for page in first..hole.unwrap_or(last) {
            process.pages.get_mut(&page).unwrap().prot = prot;
        }
    }

    fn advise(&mut self, who: usize, at: u64, pages: u64, advice: u32) {
        let process = self.processes[who].as_mut().unwrap();
        let mm = process.mm.clone();
        let (first, last) = (key(va(at)), key(va(at + pages)));
        let holes = (first..last).any(|page| !process.pages.contains_key(&page));
        // Where the first page stands that does not allow the advice: what lies before it is done.
        let refused = process.pages.range(first..last).find(|(_, page)| match (advice, &page.back) {
            (abi::MADV_FREE, back) => !matches!(back, Back::Anon(_)),
            (abi::MADV_WIPEONFORK, back) => !matches!(back, Back::Anon(_)),
            (abi::MADV_REMOVE, back) => !matches!(back, Back::Shared { .. }),
            _ => false,
        });
        let refused = refused.map(|(page, _)| *page);
        if matches!(advice, abi::MADV_POPULATE_READ | abi::MADV_POPULATE_WRITE) {
            self.arena.unlimited();
        }
        let done = mm.madvise(va(at), pages * PAGE_BYTES, advice.into());
        if matches!(advice, abi::MADV_POPULATE_READ | abi::MADV_POPULATE_WRITE) {
            // Populating for writing makes private copies, with the same content.
            return self.populated(who, first, last, advice, done);
        }
        match done {
            Err(MmError::NoMemory) => return,
            Ok(()) => assert!(!holes && refused.is_none()),
            Err(MmError::NotMapped) => assert!(holes && refused.is_none()),
            Err(MmError::Invalid | MmError::AccessDenied) => assert!(refused.is_some()),
            Err(error) => panic!("{error:?}"),
        }
        let mut removed = Vec::new();
        for (_, page) in process.pages.range_mut(first..refused.unwrap_or(last)) {
            match (advice, &mut page.back) {
                (abi::MADV_DONTNEED | abi::MADV_FREE, Back::Anon(content)) => *content = [0; 2],
                (abi::MADV_DONTNEED, Back::Private { copy, .. }) => *copy = None,
                (abi::MADV_DONTFORK, _) => page.dont_fork = true,
                (abi::MADV_DOFORK, _) => page.dont_fork = false,
                (abi::MADV_WIPEONFORK, _) => page.wipe = true,
                (abi::MADV_KEEPONFORK, _) => page.wipe = false,
                (abi::MADV_REMOVE, Back::Shared { object, index }) => removed.push((*object, *index)),
                _ => {}
            }
        }
        for (object, index) in removed {
            self.objects[object].1.pages.insert(index, [0; 2]);
        }
    }

    fn populated(&mut self, who: usize, first: u64, last: u64, advice: u32, done: Result<(), MmError>) {
        let write = advice == abi::MADV_POPULATE_WRITE;
        for page in first..last {
            let expected = self.expect(who, page, write).map(|_| ());
            match expected {
                Ok(()) => {}
                Err(outcome) => {
                    let error = match outcome {
                        FaultOutcome::SegvMapErr => MmError::NotMapped,
                        FaultOutcome::SegvAccErr => MmError::Invalid,
                        _ => MmError::Fault,
                    };
                    assert_eq!(done, Err(error));
                    return;
                }
            }
        }
        assert_eq!(done, Ok(()));
    }

    fn remap(&mut self, who: usize, at: u64, old: u64, new: u64, to: Option<u64>, dont_unmap: bool) {
        let process = self.processes[who].as_mut().unwrap();
        let (start, old_len) = (va(at), old * PAGE_BYTES);
        let new = if dont_unmap { old } else { new };
        // Only what lies in one VMA may be moved.
        let mut inside = false;
        process.mm.for_each_vma(&mut |vma| inside |= vma.start <= start && start + old_len <= vma.end);
        let target = to.map(va);
        let overlaps =
            target.is_some_and(|target| start < target + new * PAGE_BYTES && target < start + old_len);
        if !inside || overlaps || (dont_unmap && target.is_none()) {
            return;
        }
        let mut flags = if at.is_multiple_of(3) && target.is_none() { 0 } else { abi::MREMAP_MAYMOVE };
        flags |= if target.is_some() { abi::MREMAP_FIXED } else { 0 };
        flags |= if dont_unmap { abi::MREMAP_DONTUNMAP } else { 0 };
        // With a target an error may leave it unmapped: no shortage then.
        if target.is_some() {
            self.arena.unlimited();
        }
        let done = process.mm.mremap(start, old_len, new * PAGE_BYTES, flags.into(), target.unwrap_or(0));
        let addr = match done {
            Ok(addr) => addr,
            Err(MmError::NoMemory) => return,
            Err(MmError::NoSpace) => {
                assert!(flags == 0 && new > old);
                return;
            }
            Err(error) => panic!("{error:?}"),
        };
        let (from, goal) = (key(start), key(addr));
        let template = process.pages[&(from + old - 1)].clone();
        let mut moved: Vec<PageModel> = Vec::new();
        for page in from..from + old {
            let model = process.pages.remove(&page).unwrap();
            if dont_unmap {
                let mut left = model.clone();
                left.back = match left.back {
                    Back::Anon(_) => Back::Anon([0; 2]),
                    Back::Private { object, index, .. } => Back::Private { object, index, copy: None },
                    shared => shared,
                };
                process.pages.insert(page, left);
            }
            moved.push(model);
        }
        for n in 0..new {
            let page = moved.get(n as usize).cloned().unwrap_or_else(|| {
                let mut page = template.clone();
                let beyond = n - (old - 1);
                page.back = match page.back {
                    Back::Anon(_) => Back::Anon([0; 2]),
                    Back::Private { object, index, .. } => {
                        Back::Private { object, index: index + beyond, copy: None }
                    }
                    Back::Shared { object, index } => Back::Shared { object, index: index + beyond },
                };
                page
            });
            let before = process.pages.insert(goal + n, page);
            assert!(target.is_some() || before.is_none(), "moved over an existing mapping");
        }
    }

    fn fork(&mut self, who: usize, mode: Sharing, small: u32) {
        let Some(free) = self.processes.iter().position(Option::is_none) else { return };
        let Some(parent) = &self.processes[who] else { return };
        let Ok(mm) = parent.mm.fork(mode, small) else { return };
        let mut pages = parent.pages.clone();
        pages.retain(|_, page| !page.dont_fork);
        for page in pages.values_mut().filter(|page| page.wipe) {
            page.back = Back::Anon([0; 2]);
        }
        self.processes[free] = Some(Process { mm, pages });
    }

    fn truncate(&mut self, number: usize, bytes: u64) {
        let (object, model) = &mut self.objects[number];
        object.as_ref().unwrap().truncate(bytes).unwrap();
        let old = model.size;
        model.size = bytes;
        if bytes < old {
            model.pages.retain(|&index, _| index < bytes.div_ceil(PAGE_BYTES));
            model.cut(bytes);
        } else {
            model.cut(old);
        }
        for process in self.processes.iter_mut().flatten() {
            for page in process.pages.values_mut() {
                if let Back::Private { object, index, copy } = &mut page.back
                    && *object == number
                    && *index >= bytes.div_ceil(PAGE_BYTES)
                    && bytes < old
                {
                    *copy = None;
                }
            }
        }
    }

    fn punch(&mut self, number: usize, page: u64, pages: u64) {
        self.arena.unlimited();
        let (object, model) = &mut self.objects[number];
        object.as_ref().unwrap().punch_hole(page * PAGE_BYTES, pages * PAGE_BYTES).unwrap();
        for index in page..page + pages {
            model.pages.insert(index, [0; 2]);
        }
    }

    fn write(&mut self, number: usize, page: u64, value: u64) {
        let (object, model) = &mut self.objects[number];
        let off = (page + 1) * PAGE_BYTES - 8;
        match object.as_ref().unwrap().write_at(off, &value.to_le_bytes()) {
            Err(ObjectError::NoMemory) => return,
            written => assert_eq!(written, Ok(8)),
        }
        if off > model.size {
            model.cut(model.size);
        }
        model.size = model.size.max(off + 8);
        model.page(page)[1] = value;
        let mut back = [0; 8];
        assert_eq!(object.as_ref().unwrap().read_at(off, &mut back), 8);
        assert_eq!(u64::from_le_bytes(back), value);
    }

    fn check_everything(&mut self) {
        self.arena.unlimited();
        for who in 0..PROCESSES {
            let Some(process) = &self.processes[who] else { continue };
            let pages: Vec<u64> = process.pages.keys().copied().collect();
            for page in pages {
                self.check_load(who, page);
            }
        }
        for (object, model) in &mut self.objects {
            let Some(object) = object else { continue };
            assert_eq!(object.size_bytes(), model.size);
            for index in 0..model.size / PAGE_BYTES {
                let content = *model.page(index);
                for (word, off) in [0, PAGE_BYTES - 8].into_iter().enumerate() {
                    let mut bytes = [0; 8];
                    assert_eq!(object.read_at(index * PAGE_BYTES + off, &mut bytes), 8);
                    assert_eq!(u64::from_le_bytes(bytes), content[word], "page {index} of an object");
                }
            }
        }
    }
}

fn play(script: Vec<(usize, Option<u64>, Call)>) {
    let mut world = World::new();
    let arena = world.arena.clone();
    for (who, budget, call) in script {
        match budget {
            Some(frames) => arena.budget(frames),
            None => arena.unlimited(),
        }
        world.run(who, call);
        world.audit();
    }
    world.check_everything();
    world.audit();
    drop(world);
    arena.audit(&[]);
    let all = Arena::new(16384).free_frames();
    assert_eq!(arena.free_frames(), all, "frames are lost");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_byte_reads_as_the_model_says(
        script in prop::collection::vec(
            (0..PROCESSES, prop::option::weighted(0.1, 0..4_u64), calls()), 1..80)
    ) {
        play(script);
    }
}
