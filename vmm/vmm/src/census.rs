//! Reads counters out of the guest's census. Only numbers for reports: the judge has its own, careful reader.

use crate::outcome::Snapshot;
use crate::ram::GuestRam;
use ptshare_wire::Wait;
use ptshare_wire::census::{CENSUS_MAGIC, CPUS_MAX, CensusHeader, CpuRec, RAM_RANGES_MAX, RamRange};
use ptshare_wire::stats::{Stats, UNKNOWN_MAX};
use std::mem::{offset_of, size_of};

/// What is wrong with a census header at `pa`, if anything.
pub fn complaint(ram: &GuestRam, pa: u64) -> Option<String> {
    if !pa.is_multiple_of(8) || !ram.contains(pa, size_of::<CensusHeader>() as u64) {
        return Some(format!("the census at {pa:#x} does not lie in RAM"));
    }
    let magic = ram.read_u64(pa + offset_of!(CensusHeader, magic) as u64)?;
    (magic != CENSUS_MAGIC)
        .then(|| format!("the census at {pa:#x} begins with {magic:#x} instead of its magic number"))
}

/// The counters and frame counts.
pub fn snapshot(ram: &GuestRam, pa: u64) -> Option<Snapshot> {
    let word = |offset: usize| ram.read_u64(pa + offset as u64);
    let mut snapshot = Snapshot::default();
    for (i, &name) in Stats::NAMES.iter().enumerate() {
        snapshot.stats.insert(name, word(offset_of!(CensusHeader, stats) + 8 * i)?);
    }
    snapshot.frames_free = word(offset_of!(CensusHeader, free_frames))?;
    for i in 0..RAM_RANGES_MAX {
        let at = offset_of!(CensusHeader, ram) + i * size_of::<RamRange>();
        let start = word(at + offset_of!(RamRange, start))?;
        let end = word(at + offset_of!(RamRange, end))?;
        let virgin = word(at + offset_of!(RamRange, virgin))?;
        // A guest's numbers may be anything.
        snapshot.frames_total = snapshot.frames_total.saturating_add(end.saturating_sub(start));
        snapshot.frames_free = snapshot.frames_free.saturating_add(end.saturating_sub(virgin));
    }
    Some(snapshot)
}

/// What the census says of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuRecord {
    /// It has been started.
    pub online: bool,
    /// The process that it runs, 0 for none.
    pub pid: u64,
    /// Slot of the loaded mm plus 1; 0 for the kernel's own root.
    pub mm_slot: u64,
    /// Depth of critical sections.
    pub critical: u32,
    /// What it spins for.
    pub waits_for: Option<Wait>,
}

/// The record of CPU `index`; `None` when it does not lie in RAM.
pub fn cpu(ram: &GuestRam, census_pa: u64, index: u32) -> Option<CpuRecord> {
    let table = ram.read_u64(census_pa + offset_of!(CensusHeader, cpu_table) as u64)?;
    let index = usize::try_from(index).ok().filter(|index| *index < CPUS_MAX)?;
    let at = table.checked_add((index * size_of::<CpuRec>()) as u64)?;
    let word = |offset: usize| ram.read_u64(at.checked_add(offset as u64)?);
    let flags = word(offset_of!(CpuRec, online))?;
    Some(CpuRecord {
        online: flags as u32 != 0,
        critical: (flags >> 32) as u32,
        pid: word(offset_of!(CpuRec, pid))?,
        mm_slot: word(offset_of!(CpuRec, mm_slot))?,
        waits_for: Wait::from_word(word(offset_of!(CpuRec, waits_for))?),
    })
}

const _: () = assert!(offset_of!(CpuRec, critical) == offset_of!(CpuRec, online) + 4);

/// Numbers of unknown system calls, in the order met.
pub fn unknown_syscalls(ram: &GuestRam, pa: u64) -> Vec<u64> {
    let at = pa + (offset_of!(CensusHeader, stats) + offset_of!(Stats, unknown)) as u64;
    (0..UNKNOWN_MAX as u64).map_while(|i| ram.read_u64(at + 8 * i).filter(|&n| n != 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let pa = 0x20_0000;
        let put = |offset: usize, value| assert!(ram.write_u64(pa + offset as u64, value));
        assert!(complaint(&ram, pa).is_some());
        put(0, CENSUS_MAGIC);
        assert_eq!(complaint(&ram, pa), None);
        assert!(complaint(&ram, 1 << 50).is_some());
        let stats = offset_of!(CensusHeader, stats);
        put(stats + offset_of!(Stats, forks), 5);
        put(stats + offset_of!(Stats, unknown), 300);
        put(stats + offset_of!(Stats, unknown) + 8, 301);
        put(offset_of!(CensusHeader, free_frames), 10);
        let range = offset_of!(CensusHeader, ram);
        put(range + offset_of!(RamRange, start), 0x100);
        put(range + offset_of!(RamRange, end), 0x1000);
        put(range + offset_of!(RamRange, virgin), 0xff0);
        let snapshot = snapshot(&ram, pa).unwrap();
        assert_eq!(snapshot.stats["forks"], 5);
        assert_eq!(snapshot.stats.len(), Stats::NAMES.len());
        assert_eq!((snapshot.frames_total, snapshot.frames_free), (0xf00, 26));
        assert_eq!(unknown_syscalls(&ram, pa), [300, 301]);
        // A count that went below zero.
        put(offset_of!(CensusHeader, free_frames), u64::MAX - 3);
        put(range + offset_of!(RamRange, end), u64::MAX);
        let wild = super::snapshot(&ram, pa).unwrap();
        assert_eq!((wild.frames_total, wild.frames_free), (u64::MAX - 0x100, u64::MAX));
    }
}
