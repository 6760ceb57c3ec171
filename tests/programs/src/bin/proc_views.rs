//! /proc/PID/pagemap, smaps and status agree with what the program did: of its own pages, of what a child by fork shares, and of
//! page tables (2003 paper, section 6: what sharing saves must be seen).

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::views::{self, EXCLUSIVE, OF_FILE, PRESENT, Smaps};
use ptshare_programs::{check, check_eq, judge};

const TABLES: usize = 4;
/// Pages written, one in so many.
const STEP: usize = 64;
const WRITTEN: usize = TABLES * TABLE / PAGE / STEP;
const BASE: usize = 0x2000_0000_0000;
/// Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).
const KPF_MMAP: u64 = 1 << 11;
const KPF_ANON: u64 = 1 << 12;
const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Present, of a file, mapped once: what pagemap says of a page.
fn bits(address: usize) -> (bool, bool, bool) {
    let word = views::pagemap(address);
    (word & PRESENT != 0, word & OF_FILE != 0, word & EXCLUSIVE != 0)
}

fn kb(pages: usize) -> Option<u64> {
    Some((pages * PAGE / 1024) as u64)
}

/// Rss, Anonymous, and dirty pages alone and in common, in kB.
fn sizes(base: usize) -> [Option<u64>; 4] {
    let smaps = Smaps::of(base);
    ["Rss", "Anonymous", "Private_Dirty", "Shared_Dirty"].map(|name| smaps.get(name))
}

fn map(base: usize, len: usize, prot: i32, flags: i32) -> Region {
    let region = Region::try_at(base, len, prot, flags);
    check!(region.is_ok(), "mmap at {base:#x}: {region:?}");
    region.unwrap_or(Region { base, len })
}

fn own_pages(region: Region) {
    check_eq!(bits(region.base), (false, false, false));
    region.mark_pages(STEP, 1);
    check_eq!(bits(region.base), (true, false, true));
    check_eq!(bits(region.base + PAGE), (false, false, false));
    // Where this is root, the frame has a number; and what is known of it can be read (on Linux: if built in).
    let frame = views::frame(views::pagemap(region.base));
    if frame != 0
        && let Some(flags) = views::of_frame("/proc/kpageflags", frame)
    {
        check_eq!(views::of_frame("/proc/kpagecount", frame), Some(1));
        check!(flags & (KPF_MMAP | KPF_ANON) == KPF_MMAP | KPF_ANON, "kpageflags {flags:#x}");
    }
    check!(frame != 0 || !judge::present(), "no frame number in a guest where everybody is root");
    // The zero page is nobody's.
    check_eq!(region.get(2 * PAGE), 0);
    check_eq!(bits(region.base + 2 * PAGE), (true, false, false));
    check_eq!(sizes(region.base), [kb(WRITTEN), kb(WRITTEN), kb(WRITTEN), Some(0)]);
    let hidden = region.part(0, TABLE);
    hidden.protect(libc::PROT_NONE);
    check_eq!(bits(region.base), (true, false, true));
    check_eq!(sizes(region.base)[0], kb(WRITTEN / TABLES));
    hidden.protect(RW);
    println!("own pages: present, anonymous, exclusive");
}

fn other_pages(region: Region) {
    let shared = map(BASE + (1 << 30), TABLE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    shared.set(0, 1);
    check_eq!(bits(shared.base), (true, true, true));
    check_eq!(Smaps::of(shared.base).get("Anonymous"), Some(0));
    check_eq!(Smaps::of(shared.base).get("Rss"), kb(1));
    region.part(TABLE, TABLE).advise(libc::MADV_DONTNEED);
    check_eq!(bits(region.base + TABLE), (false, false, false));
    check_eq!(sizes(region.base)[0], kb(WRITTEN - WRITTEN / TABLES));
    region.part(TABLE, TABLE).mark_pages(STEP, 1);
    shared.unmap();
    println!("shared memory: of a file; MADV_DONTNEED: gone");
}

/// VmPTE, VmPTEShared and VmPTEProp, in kB.
fn tables() -> [u64; 3] {
    ["VmPTE", "VmPTEShared", "VmPTEProp"].map(|name| views::status(name).unwrap_or(0))
}

fn with_a_child(region: Region) {
    let (ready, go, done, leave) = (Gate::new(), Gate::new(), Gate::new(), Gate::new());
    let child = process::spawn(|| {
        check_eq!(bits(region.base), (true, false, false));
        check_eq!(sizes(region.base), [kb(WRITTEN), kb(WRITTEN), Some(0), kb(WRITTEN)]);
        ready.open();
        go.pass();
        region.set(0, 9);
        check_eq!(bits(region.base), (true, false, true));
        check_eq!(bits(region.base + STEP * PAGE), (true, false, false));
        done.open();
        leave.pass();
        0
    });
    ready.pass();
    check_eq!(bits(region.base), (true, false, false));
    check_eq!(sizes(region.base), [kb(WRITTEN), kb(WRITTEN), Some(0), kb(WRITTEN)]);
    let [all, shared, part] = tables();
    check!(all > 0 && shared <= all && part <= all, "VmPTE {all}, VmPTEShared {shared}, VmPTEProp {part}");
    if judge::present() {
        judge::metric("vmpte_kb", all);
        judge::metric("vmpte_shared_kb", shared);
        judge::metric("vmpte_prop_kb", part);
        // A shared table is half this process's.
        check!(
            part + shared / 2 >= all && part <= all,
            "VmPTE {all}, VmPTEShared {shared}, VmPTEProp {part}"
        );
        let here = Smaps::of(region.base).get("PTEShared");
        check!(if shared > 0 { here == kb(TABLES) } else { here == Some(0) }, "PTEShared {here:?}");
        check!(views::meminfo("PageTables") > Some(part), "PageTables is below this process's part");
    }
    judge::answer("shared-with-a-child");
    go.open();
    done.pass();
    // The child has a copy: the original is this process's alone again.
    check_eq!(bits(region.base), (true, false, true));
    check_eq!(bits(region.base + STEP * PAGE), (true, false, false));
    judge::answer("child-has-written");
    leave.open();
    println!("child: {}", process::wait(child));
    check_eq!(bits(region.base + STEP * PAGE), (true, false, true));
    check_eq!(sizes(region.base), [kb(WRITTEN), kb(WRITTEN), kb(WRITTEN), Some(0)]);
    println!("after the child: all mine");
}

fn main() {
    let region = map(BASE, TABLES * TABLE, RW, ANON);
    // A kernel with transparent huge pages may give some otherwise; one without knows no such advice.
    // SAFETY: advice changes nothing that the program can read.
    unsafe { libc::madvise(region.base as *mut _, region.len, libc::MADV_NOHUGEPAGE) };
    own_pages(region);
    other_pages(region);
    with_a_child(region);
}
