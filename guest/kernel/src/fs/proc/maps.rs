//! What /proc/PID/maps, smaps, statm, pagemap and mem show of an address space.

use crate::KMm;
use crate::fs::io::{Sink, Source, total};
use crate::fs::text::Text;
use crate::syscall::SysResult;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::hugetlb::HugeSize;
use ptshare_mm::space::vm_flag_letters;
use ptshare_mm::vma::VM_HUGETLB;
use ptshare_mm::{SmapsEntry, VmaView};
use ptshare_paging::{PAGE_BYTES, USER_END};

fn line(t: &mut Text, vma: &VmaView<'_, Machine>) {
    let start = t.len();
    t.hex(vma.start, 8).c(b'-').hex(vma.end, 8).c(b' ').b(&vma.rights()).c(b' ').hex(vma.offset, 8);
    t.c(b' ').hex(crate::fs::device::major(vma.dev), 2).c(b':').hex(crate::fs::device::minor(vma.dev), 2);
    t.c(b' ').dec(vma.ino).c(b' ');
    match vma.object {
        Some(object) => {
            t.pad_to(start, 73);
            t.path(object.info().path.lock().as_bytes(), b"\n");
        }
        None if !vma.name.is_empty() => {
            t.pad_to(start, 73).s(vma.name);
        }
        None => {}
    }
    t.c(b'\n');
}

/// Adds lines from the address `from` on until the text is `enough` bytes long. Gives where to go on.
pub fn maps(t: &mut Text, mm: &KMm, from: u64, enough: usize) -> Option<u64> {
    let mut next = None;
    mm.for_each_vma_from(from, &mut |vma| {
        if t.len() >= enough {
            next = Some(vma.start);
            return false;
        }
        line(t, vma);
        true
    });
    next
}

fn smap_body(t: &mut Text, entry: &SmapsEntry, locked: u64) {
    for (name, bytes) in [
        ("Rss:            ", entry.rss),
        ("Pss:            ", entry.pss),
        ("Pss_Dirty:      ", entry.private_dirty),
        ("Shared_Clean:   ", entry.shared_clean),
        ("Shared_Dirty:   ", entry.shared_dirty),
        ("Private_Clean:  ", entry.private_clean),
        ("Private_Dirty:  ", entry.private_dirty),
        ("Referenced:     ", entry.referenced),
        ("Anonymous:      ", entry.anonymous),
        ("KSM:            ", 0),
        ("LazyFree:       ", 0),
        ("AnonHugePages:  ", 0),
        ("ShmemPmdMapped: ", 0),
        ("FilePmdMapped:  ", 0),
        ("Shared_Hugetlb: ", entry.shared_hugetlb),
        ("Private_Hugetlb:", entry.private_hugetlb),
        ("Swap:           ", 0),
        ("SwapPss:        ", 0),
        ("Locked:         ", locked),
        // Not on Linux, which shares no PTE pages.
        ("PTEShared:      ", entry.shared_tables),
    ] {
        t.kb(name, bytes / 1024);
    }
}

/// As [`maps`].
pub fn smaps(t: &mut Text, mm: &KMm, from: u64, enough: usize) -> Option<u64> {
    let mut next = None;
    let t = core::cell::RefCell::new(t);
    let mut goes_on = |vma: &VmaView<'_, Machine>| {
        if t.borrow().len() >= enough {
            next = Some(vma.start);
        }
        next.is_none()
    };
    mm.for_each_smap_from(from, &mut goes_on, &mut |vma, entry| {
        let t = &mut **t.borrow_mut();
        line(t, vma);
        t.kb("Size:           ", (vma.end - vma.start) / 1024);
        let huge = vma.flags & VM_HUGETLB != 0;
        let page = if huge { HugeSize::of_vma(vma.flags).bytes() } else { PAGE_BYTES };
        t.kb("KernelPageSize: ", page / 1024).kb("MMUPageSize:    ", page / 1024);
        smap_body(t, entry, entry.locked);
        t.s("THPeligible:           0\nVmFlags:");
        vm_flag_letters(vma.flags, &mut |letters| {
            t.c(b' ').s(letters);
        });
        t.s(" \n");
    });
    next
}

pub fn smaps_rollup(t: &mut Text, mm: &KMm) {
    let mut sum = SmapsEntry::default();
    let (mut first, mut last) = (0, 0);
    mm.for_each_smap(&mut |vma, entry| {
        if last == 0 {
            first = vma.start;
        }
        last = vma.end;
        sum.rss += entry.rss;
        sum.pss += entry.pss;
        sum.shared_clean += entry.shared_clean;
        sum.shared_dirty += entry.shared_dirty;
        sum.private_clean += entry.private_clean;
        sum.private_dirty += entry.private_dirty;
        sum.referenced += entry.referenced;
        sum.anonymous += entry.anonymous;
        sum.shared_hugetlb += entry.shared_hugetlb;
        sum.private_hugetlb += entry.private_hugetlb;
        sum.locked += entry.locked;
        sum.shared_tables += entry.shared_tables;
    });
    let start = t.len();
    t.hex(first, 8).c(b'-').hex(last, 8).s(" ---p 00000000 00:00 0 ").pad_to(start, 73).s("[rollup]\n");
    smap_body(t, &sum, sum.locked);
}

pub fn statm(t: &mut Text, mm: &KMm) {
    let usage = mm.usage();
    let shared = usage.rss_file + usage.rss_shmem;
    t.dec(usage.vm_pages).c(b' ').dec(usage.rss_anon + shared).c(b' ').dec(shared).c(b' ');
    t.dec(usage.exe_pages).s(" 0 ").dec(usage.data_pages + usage.stack_pages).s(" 0\n");
}

/// Bytes of a process's memory between two addresses, at most `max`.
pub fn bytes(mm: &KMm, start: u64, end: u64, max: usize) -> alloc::vec::Vec<u8> {
    let len = end.saturating_sub(start).min(max as u64) as usize;
    let mut out = alloc::vec::Vec::new();
    if start == 0 || out.try_reserve_exact(len).is_err() {
        return out;
    }
    out.resize(len, 0);
    if mm.read_user(start, &mut out).is_err() {
        out.clear();
    }
    out
}

/// A page is present: bit 63 of a word of /proc/PID/pagemap.
const PM_PRESENT: u64 = 1 << 63;
/// It belongs to a file, or is shared anonymous memory.
const PM_FILE: u64 = 1 << 61;
/// userfaultfd has write-protected it.
const PM_UFFD_WP: u64 = 1 << 57;
/// It is mapped in one place only.
const PM_MMAP_EXCLUSIVE: u64 = 1 << 56;

/// /proc/PID/pagemap: one word a page (Linux: Documentation/admin-guide/mm/pagemap.rst). Bits 54:0 are the frame number,
/// for a reader with CAP_SYS_ADMIN. Bits 62 (swapped) and 55 (soft-dirty) stay 0: there is no swap, and no
/// CONFIG_MEM_SOFT_DIRTY.
pub fn pagemap(mm: &KMm, pos: u64, sink: &mut Sink) -> SysResult {
    if (pos | sink.left()) & 7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let show = crate::task::current().process.capable(crate::fs::caller::CAP_SYS_ADMIN);
    let mut va = (pos / 8).saturating_mul(PAGE_BYTES);
    let mut result = Ok(());
    while sink.left() >= 8 && va < USER_END && result.is_ok() {
        let mut chunk = [0u8; 512];
        let mut n = 0;
        for word in chunk.chunks_exact_mut(8) {
            if va >= USER_END || n + 8 > sink.left() as usize {
                break;
            }
            let value = mm.page_view(va).map_or(0, |page| {
                let bit = |set, bit| if set { bit } else { 0 };
                PM_PRESENT
                    | bit(page.of_object, PM_FILE)
                    | bit(page.exclusive, PM_MMAP_EXCLUSIVE)
                    | bit(page.protected, PM_UFFD_WP)
                    | if show { page.pfn.0 } else { 0 }
            });
            word.copy_from_slice(&value.to_le_bytes());
            va += PAGE_BYTES;
            n += 8;
        }
        result = sink.put(chunk.get(..n).unwrap_or(&[])).map(|_| ());
    }
    total(sink.done(), result)
}

/// /proc/PID/mem.
pub fn read_mem(mm: &KMm, pos: u64, sink: &mut Sink) -> SysResult {
    let mut at = pos;
    let mut result = Ok(());
    let mut chunk = [0u8; 512];
    while sink.left() > 0 && result.is_ok() {
        let n = (512 - at % 512).min(sink.left()) as usize;
        let Some(part) = chunk.get_mut(..n) else { break };
        if mm.read_user(at, part).is_err() {
            return if sink.done() == 0 { Err(Errno::EIO.into()) } else { Ok(sink.done()) };
        }
        result = sink.put(part).map(|_| ());
        at = at.saturating_add(n as u64);
    }
    total(sink.done(), result)
}

/// A write to /proc/PID/mem: as the process itself could write there.
pub fn write_mem(mm: &KMm, pos: u64, source: &mut Source) -> SysResult {
    let mut chunk = [0u8; 512];
    let mut done = 0;
    while source.left() > 0 {
        let at = pos.saturating_add(done);
        let n = (512 - at % 512).min(source.left()) as usize;
        let Some(part) = chunk.get_mut(..n) else { break };
        let result = source.get(part);
        if result.is_ok() && mm.write_user(at, part).is_err() {
            return if done == 0 { Err(Errno::EIO.into()) } else { Ok(done) };
        }
        match result {
            Ok(got) => done += got,
            Err(fault) => return if done == 0 { Err(fault.into()) } else { Ok(done) },
        }
    }
    Ok(done)
}
