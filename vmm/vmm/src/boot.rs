//! What lies in guest memory before the first instruction: the kernel image, the initramfs, and the PVH boot
//! structures (Xen documentation, "x86/HVM direct boot ABI").
//!
//! | guest-physical | what |
//! |---|---|
//! | [`GDT_PA`] | flat segments for the 32-bit entry |
//! | [`START_INFO_PA`] | `hvm_start_info`; EBX points here |
//! | [`MEMMAP_PA`] | memory map, e820 types |
//! | [`MODLIST_PA`] | one module: the initramfs |
//! | [`CMDLINE_PA`] | command line, NUL-terminated, at most [`CMDLINE_MAX`] bytes |
//! | `KERNEL_PHYS_LOAD` on | the kernel image, as its program headers say |
//! | top of low RAM ([`linear_tables`]) | page tables of the guest's linear map, so that a guest with much RAM boots as fast as a small one |
//! | below them, rounded down to 2 MiB | the initramfs |

use crate::error::VmmError;
use crate::ram::{GuestRam, ranges};
use crate::regs;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use object::elf::{EM_X86_64, ET_EXEC, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use ptshare_paging::{ENTRIES, PAGE_BYTES, Pa, Pte};
use ptshare_wire::layout::{KERNEL_PHYS_LOAD, LOW_RAM_END};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use vm_memory::GuestAddress;

/// The boot GDT.
pub const GDT_PA: u64 = 0x500;
/// `hvm_start_info`.
pub const START_INFO_PA: u64 = 0x6000;
/// The memory map.
pub const MEMMAP_PA: u64 = 0x7000;
/// The module list.
pub const MODLIST_PA: u64 = 0x8000;
/// The command line.
pub const CMDLINE_PA: u64 = 0x2_0000;
/// Most bytes of command line, NUL included.
pub const CMDLINE_MAX: usize = 4096;
/// End of conventional memory below the legacy hole.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const START_MAGIC: u32 = 0x336e_c578;
const MODULE_ALIGN: u64 = 2 << 20;

/// The memory map of a guest with this much RAM: `(start, bytes, e820 type)` in address order.
pub fn memmap(mem_bytes: u64) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, CONVENTIONAL_END, E820_RAM),
        (CONVENTIONAL_END, KERNEL_PHYS_LOAD - CONVENTIONAL_END, E820_RESERVED),
    ];
    let tables = linear_tables(mem_bytes);
    for piece in ranges(mem_bytes) {
        let start = piece.start.max(KERNEL_PHYS_LOAD);
        let end = if piece.end == tables.end { tables.start } else { piece.end };
        map.push((start, end - start, E820_RAM));
        if piece.end == tables.end {
            map.push((tables.start, tables.end - tables.start, E820_RESERVED));
        }
        if piece.end == LOW_RAM_END {
            map.push((LOW_RAM_END, ptshare_wire::layout::HIGH_RAM_START - LOW_RAM_END, E820_RESERVED));
        }
    }
    map
}

/// Where the tables of the linear map lie: one PUD page, then one PMD page for each GiB of physical address space up to
/// the end of RAM.
pub fn linear_tables(mem_bytes: u64) -> Range<u64> {
    let end = mem_bytes.min(LOW_RAM_END) & !(PAGE_BYTES - 1);
    let top = ranges(mem_bytes).last().map_or(0, |piece| piece.end);
    let pages = 1 + top.div_ceil(1 << 30);
    end.saturating_sub(pages * PAGE_BYTES)..end
}

/// Writes the tables of the linear map: all RAM in 2 MiB leaves, supervisor, writable, no execute.
fn write_linear_tables(ram: &GuestRam) -> Result<(), VmmError> {
    const LEAF: u64 =
        Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY | Pte::HUGE | Pte::GLOBAL | Pte::NO_EXEC;
    let tables = linear_tables(ram.bytes());
    let full = || VmmError::NoRoom("the tables of the linear map do not fit into low RAM".into());
    let mut pud = [0_u64; ENTRIES];
    for piece in ranges(ram.bytes()) {
        for gib in piece.start >> 30..piece.end.div_ceil(1 << 30) {
            let table = Pa(tables.start + (1 + gib) * PAGE_BYTES).pfn();
            let words: Vec<u8> = (0..ENTRIES as u64)
                .flat_map(|i| Pte::new(Pa((gib << 30) + (i << 21)).pfn(), LEAF).0.to_le_bytes())
                .collect();
            *pud.get_mut(gib as usize).ok_or_else(full)? =
                Pte::new(table, Pte::PRESENT | Pte::WRITE | Pte::ACCESSED).0;
            if !ram.write(table.pa().0, &words) {
                return Err(full());
            }
        }
    }
    let words: Vec<u8> = pud.iter().flat_map(|word| word.to_le_bytes()).collect();
    if ram.write(tables.start, &words) { Ok(()) } else { Err(full()) }
}

/// Where an initramfs of `len` bytes goes: below the tables of the linear map, rounded down to 2 MiB.
pub fn initramfs_pa(mem_bytes: u64, len: u64) -> Option<u64> {
    linear_tables(mem_bytes).start.checked_sub(len).map(|pa| pa & !(MODULE_ALIGN - 1))
}

/// Loads the kernel image; gives its 32-bit entry point and the first byte after it.
///
/// # Errors
/// [`VmmError::BadFile`] when it is no x86-64 ELF file with a PVH note that fits into low RAM from 1 MiB up.
pub fn load_kernel(ram: &GuestRam, path: &Path, image: &[u8]) -> Result<(u32, u64), VmmError> {
    let bad = |why: String| VmmError::BadFile { what: "kernel", path: path.to_owned(), why };
    let elf = ElfFile64::<object::Endianness>::parse(image).map_err(|e| {
        bad(format!("not a 64-bit ELF file ({e}); give the kernel built by `cargo xtask build`"))
    })?;
    let endian = elf.endian();
    if elf.elf_header().e_machine(endian) != EM_X86_64 || elf.elf_header().e_type(endian) != ET_EXEC {
        return Err(bad("is no x86-64 kernel image but some other ELF file".into()));
    }
    let low_end = linear_tables(ram.bytes()).start;
    for header in elf.elf_program_headers().iter().filter(|h| h.p_type(endian) == PT_LOAD) {
        let (start, len) = (header.p_paddr(endian), header.p_memsz(endian));
        let end = start.checked_add(len).filter(|&end| start >= KERNEL_PHYS_LOAD && end <= low_end);
        if end.is_none() || header.p_filesz(endian) > len {
            return Err(bad(format!(
                "a segment wants physical memory {start:#x} and {len:#x} bytes on, which is not RAM from {KERNEL_PHYS_LOAD:#x} \
                 to {low_end:#x}; give more memory or link the kernel elsewhere"
            )));
        }
    }
    let loaded = Elf::load(ram.memory(), None, &mut Cursor::new(image), None)
        .map_err(|e| bad(format!("cannot be loaded ({e})")))?;
    match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => {
            let entry = u32::try_from(entry.0).map_err(|_| bad("its PVH entry lies above 4 GiB".into()))?;
            Ok((entry, loaded.kernel_end))
        }
        _ => Err(bad("has no PVH entry (ELF note XEN_ELFNOTE_PHYS32_ENTRY), so it cannot be started".into())),
    }
}

/// Writes the GDT, the PVH structures, the command line and the initramfs.
///
/// # Errors
/// [`VmmError::NoRoom`] when the initramfs reaches into the kernel, [`VmmError::Usage`] for a command line too long.
pub fn write_tables(
    ram: &GuestRam,
    kernel_end: u64,
    cmdline: &str,
    initramfs: &[u8],
) -> Result<(), VmmError> {
    if cmdline.len() >= CMDLINE_MAX {
        return Err(VmmError::Usage(format!(
            "the kernel command line has {} bytes and may have {}: shorten --append",
            cmdline.len(),
            CMDLINE_MAX - 1
        )));
    }
    let put = |pa: u64, bytes: &[u8]| {
        if ram.write(pa, bytes) { Ok(()) } else { Err(VmmError::NoRoom(format!("nothing at {pa:#x}"))) }
    };
    for (i, word) in regs::GDT.iter().enumerate() {
        put(GDT_PA + 8 * i as u64, &word.to_le_bytes())?;
    }
    put(CMDLINE_PA, cmdline.as_bytes())?;
    write_linear_tables(ram)?;

    let map: Vec<_> = memmap(ram.bytes())
        .into_iter()
        .map(|(addr, size, type_)| hvm_memmap_table_entry { addr, size, type_, reserved: 0 })
        .collect();
    let mut info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: CMDLINE_PA,
        memmap_paddr: MEMMAP_PA,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut modules = Vec::new();
    if !initramfs.is_empty() {
        let len = initramfs.len() as u64;
        let pa = initramfs_pa(ram.bytes(), len)
            .filter(|&pa| pa >= kernel_end.next_multiple_of(PAGE_BYTES))
            .ok_or_else(|| {
            VmmError::NoRoom(format!("an initramfs of {len} bytes reaches into the kernel"))
        })?;
        put(pa, initramfs)?;
        modules.push(hvm_modlist_entry { paddr: pa, size: len, ..Default::default() });
        info.nr_modules = 1;
        info.modlist_paddr = MODLIST_PA;
    }
    let mut params = BootParams::new(&info, GuestAddress(START_INFO_PA));
    params.set_sections(&map, GuestAddress(MEMMAP_PA));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(MODLIST_PA));
    }
    PvhBootConfigurator::write_bootparams(&params, ram.memory()).map_err(|e| VmmError::NoRoom(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RAM pieces of a map, holes left out.
    fn ram_of(mem_bytes: u64) -> Vec<(u64, u64)> {
        memmap(mem_bytes).into_iter().filter(|e| e.2 == E820_RAM).map(|e| (e.0, e.0 + e.1)).collect()
    }

    #[test]
    fn the_memory_map_names_all_ram_but_the_tables() {
        const LOW: (u64, u64) = (0, CONVENTIONAL_END);
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        const PAGE: u64 = PAGE_BYTES;
        assert_eq!(ram_of(512 * MIB), [LOW, (MIB, 512 * MIB - 2 * PAGE)]);
        assert_eq!(ram_of(3 * GIB), [LOW, (MIB, 3 * GIB - 4 * PAGE)]);
        assert_eq!(ram_of(4 * GIB), [LOW, (MIB, 3 * GIB - 6 * PAGE), (4 * GIB, 5 * GIB)]);
        assert_eq!(ram_of(64 * GIB), [LOW, (MIB, 3 * GIB - 66 * PAGE), (4 * GIB, 65 * GIB)]);
    }

    #[test]
    fn the_linear_map_reaches_the_last_byte_of_ram() {
        let mem = 4_u64 << 30;
        let ram = GuestRam::new(mem).unwrap();
        write_linear_tables(&ram).unwrap();
        for pa in [0, (3 << 30) - 1, 4 << 30, (5 << 30) - 1] {
            let pud = Pte(ram.read_u64(linear_tables(mem).start + 8 * (pa >> 30)).unwrap());
            let pmd = Pte(ram.read_u64(pud.pfn().pa().0 + 8 * (pa >> 21 & 511)).unwrap());
            assert_eq!(pmd.pfn().pa().0, pa & !((2 << 20) - 1));
        }
        assert_eq!(ram.read_u64(linear_tables(mem).start + 8 * 3), Some(0), "the device hole stays unmapped");
    }

    #[test]
    fn the_memory_map_is_sorted_and_does_not_overlap() {
        for mem in [512 << 20, 3 << 30, 4u64 << 30, 64 << 30] {
            let map = memmap(mem);
            for pair in map.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{mem:#x}: {pair:x?}");
            }
            let top = map.last().unwrap();
            assert_eq!(
                map.iter().any(|e| e.0 == LOW_RAM_END && e.2 == E820_RESERVED),
                mem >= LOW_RAM_END,
                "{top:x?}"
            );
        }
    }

    #[test]
    fn the_initramfs_lies_below_the_tables() {
        assert_eq!(initramfs_pa(512 << 20, 1), Some(510 << 20));
        assert_eq!(initramfs_pa(512 << 20, 2 << 20), Some(508 << 20));
        assert_eq!(initramfs_pa(64 << 30, (2 << 20) + 1), Some((3 << 30) - (4 << 20)));
        assert_eq!(initramfs_pa(16 << 20, 17 << 20), None);
    }

    #[test]
    fn boot_structures_are_where_the_abi_wants_them() {
        let ram = GuestRam::new(64 << 20).unwrap();
        write_tables(&ram, 0x20_0000, "a=b", b"070701").unwrap();
        let word = |pa: u64| ram.read_u64(pa).unwrap();
        assert_eq!(word(START_INFO_PA), u64::from(START_MAGIC) | 1 << 32);
        assert_eq!(word(START_INFO_PA + 8), 1 << 32, "flags, nr_modules");
        assert_eq!(word(START_INFO_PA + 16), MODLIST_PA);
        assert_eq!(word(START_INFO_PA + 24), CMDLINE_PA);
        assert_eq!(word(START_INFO_PA + 40), MEMMAP_PA);
        assert_eq!(word(START_INFO_PA + 48), 4, "memmap_entries");
        assert_eq!((word(MODLIST_PA), word(MODLIST_PA + 8)), (62 << 20, 6));
        assert_eq!(ram.read(62 << 20, 6).unwrap(), b"070701");
        assert_eq!(ram.read(CMDLINE_PA, 4).unwrap(), b"a=b\0");
        assert_eq!(word(GDT_PA + 8), regs::GDT[1]);
        assert_eq!((word(MEMMAP_PA), word(MEMMAP_PA + 8), word(MEMMAP_PA + 16)), (0, CONVENTIONAL_END, 1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ram = GuestRam::new(16 << 20).unwrap();
        assert!(matches!(
            write_tables(&ram, 2 << 20, &"x".repeat(CMDLINE_MAX), &[]),
            Err(VmmError::Usage(_))
        ));
        assert!(matches!(write_tables(&ram, 15 << 20, "", &[1; 4096]), Err(VmmError::NoRoom(_))));
        assert!(matches!(load_kernel(&ram, Path::new("k"), b"#!/bin/sh\n"), Err(VmmError::BadFile { .. })));
        assert!(matches!(load_kernel(&ram, Path::new("k"), &[]), Err(VmmError::BadFile { .. })));
    }
}
