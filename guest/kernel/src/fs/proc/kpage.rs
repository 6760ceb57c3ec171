//! /proc/kpagecount and /proc/kpageflags: a word for each frame (Linux: Documentation/admin-guide/mm/pagemap.rst).

use crate::fs::io::{Sink, total};
use crate::syscall::SysResult;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::Env;
use ptshare_mm::hugetlb::head_of;
use ptshare_paging::Pfn;
use ptshare_wire::frame::{FLAG_HEAD, FLAG_IN_CACHE, FLAG_POOL_FREE};
use ptshare_wire::{FrameKind, FrameMeta};

/// Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).
const KPF_UPTODATE: u64 = 1 << 3;
const KPF_BUDDY: u64 = 1 << 10;
const KPF_MMAP: u64 = 1 << 11;
const KPF_ANON: u64 = 1 << 12;
const KPF_SWAPBACKED: u64 = 1 << 14;
const KPF_COMPOUND_HEAD: u64 = 1 << 15;
const KPF_COMPOUND_TAIL: u64 = 1 << 16;
const KPF_HUGE: u64 = 1 << 17;
const KPF_NOPAGE: u64 = 1 << 20;
const KPF_ZERO_PAGE: u64 = 1 << 24;
const KPF_PGTABLE: u64 = 1 << 26;

/// What a frame number stands for.
enum Frame {
    /// No managed memory.
    None,
    /// Managed, never given out.
    Virgin,
    /// With metadata; part of a huge page behind its head, if so.
    Known(&'static FrameMeta, bool),
}

fn frame(pfn: u64) -> Frame {
    let census = Machine.census();
    let range =
        |range: &&ptshare_wire::RamRange| (range.start.load(Relaxed)..range.end.load(Relaxed)).contains(&pfn);
    let Some(range) = census.ram.iter().find(range) else { return Frame::None };
    let virgin = range.virgin.load(Relaxed);
    if pfn >= virgin {
        return Frame::Virgin;
    }
    match head_of(&Machine, Pfn(pfn)) {
        Some((head, _)) => Frame::Known(machine_meta(head.0), head.0 != pfn),
        None => Frame::Known(machine_meta(pfn), false),
    }
}

fn machine_meta(pfn: u64) -> &'static FrameMeta {
    static MACHINE: Machine = Machine;
    MACHINE.meta(Pfn(pfn))
}

fn kind(meta: &FrameMeta) -> Option<FrameKind> {
    FrameKind::from_u8(meta.state.load(Relaxed) as u8)
}

/// Leaves that map a frame, once a table; a table's own count is none of them.
fn leaves(meta: &FrameMeta) -> u64 {
    let state = meta.state.load(Relaxed);
    match kind(meta) {
        Some(FrameKind::Anon | FrameKind::Cache | FrameKind::Hugetlb | FrameKind::Zero) => {
            let others = meta.aux.load(Relaxed) + u32::from(state & FLAG_IN_CACHE != 0);
            u64::from(meta.refs.load(Relaxed).saturating_sub(others))
        }
        _ => 0,
    }
}

fn flags_of(pfn: u64) -> u64 {
    let (meta, tail) = match frame(pfn) {
        Frame::None => return KPF_NOPAGE,
        Frame::Virgin => return 0,
        Frame::Known(meta, tail) => (meta, tail),
    };
    let state = meta.state.load(Relaxed);
    let mapped = if leaves(meta) > 0 { KPF_MMAP } else { 0 };
    let anon = if state & FLAG_IN_CACHE == 0 { KPF_ANON } else { 0 };
    match kind(meta) {
        Some(FrameKind::Free) => {
            if state & FLAG_HEAD != 0 {
                KPF_BUDDY
            } else {
                0
            }
        }
        Some(FrameKind::Table) => KPF_PGTABLE,
        Some(FrameKind::Anon) => KPF_UPTODATE | KPF_ANON | KPF_SWAPBACKED | mapped,
        Some(FrameKind::Cache) => KPF_UPTODATE | KPF_SWAPBACKED | mapped,
        Some(FrameKind::Hugetlb) => {
            let part = if tail { KPF_COMPOUND_TAIL } else { KPF_COMPOUND_HEAD };
            KPF_HUGE | part | if state & FLAG_POOL_FREE == 0 { KPF_UPTODATE | mapped | anon } else { 0 }
        }
        Some(FrameKind::Zero) => KPF_ZERO_PAGE,
        Some(FrameKind::Kernel) | None => 0,
    }
}

/// Puts `word(pfn)` for each frame from position `pos` on, to the end of memory.
fn words(pos: u64, sink: &mut Sink, word: fn(u64) -> u64) -> SysResult {
    if (pos | sink.left()) & 7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let end = Machine.census().frames.load(Relaxed);
    let mut pfn = pos / 8;
    let mut result = Ok(());
    while sink.left() >= 8 && pfn < end && result.is_ok() {
        let mut chunk = [0u8; 512];
        let mut n = 0;
        for place in chunk.chunks_exact_mut(8).take((sink.left() / 8) as usize).take((end - pfn) as usize) {
            place.copy_from_slice(&word(pfn + n as u64 / 8).to_le_bytes());
            n += 8;
        }
        pfn += n as u64 / 8;
        result = sink.put(chunk.get(..n).unwrap_or(&[])).map(|_| ());
    }
    total(sink.done(), result)
}

/// /proc/kpagecount: how many page-table entries map a frame, an entry of a shared table counted once.
pub fn count(pos: u64, sink: &mut Sink) -> SysResult {
    words(pos, sink, |pfn| match frame(pfn) {
        Frame::Known(meta, _) => leaves(meta),
        Frame::None | Frame::Virgin => 0,
    })
}

/// /proc/kpageflags.
pub fn flags(pos: u64, sink: &mut Sink) -> SysResult {
    words(pos, sink, flags_of)
}
