//! What is measured where: the benchmark program's arguments, and the machine for them.

/// What one boot measures.
pub struct Plan {
    /// In words, for when nothing comes of it.
    pub what: &'static str,
    /// The program's arguments.
    pub wanted: &'static [&'static str],
    /// The machine's memory.
    pub memory: &'static str,
    /// Words for the kernel's command line.
    pub cmdline: &'static str,
}

/// What the first plan of each list measures.
pub const PRIVATE: &str = "private memory";
/// What the second measures.
pub const CROWDS: &str = "many readers";
/// 1 GiB of huge pages, and some for the kernel's own rounding.
pub const POOL: &str = "hugepages=520";

/// What the program is asked to measure under emulation.
pub fn emulated(quick: bool) -> [Plan; 2] {
    let (private, crowds): (&[_], &[_]) = if quick {
        (
            &["aged", "small", "sparse=1G", "scattered=1G", "dense=400K,1M,16M,64M"],
            &["crowd=10x16M,100x16M", "huge=10x1G"],
        )
    } else {
        (
            &["aged", "small", "sparse=1G,4G,16G", "scattered=1G,4G,16G", "dense=400K,1M,16M,64M,256M,1G"],
            &["crowd=10x256M,10x64M,100x64M,1000x64M", "huge=10x1G,100x1G,1000x1G"],
        )
    };
    [
        Plan { what: PRIVATE, wanted: private, memory: "2G", cmdline: "" },
        Plan { what: CROWDS, wanted: crowds, memory: "3G", cmdline: POOL },
    ]
}

/// The same on KVM, which may interpret the kernel's instructions.
pub fn on_the_clock(quick: bool) -> [Plan; 2] {
    let (private, crowds): (&[_], &[_]) = if quick {
        (&["small", "dense=400K,1M", "sparse=4M,1G", "scattered=4M,1G"], &["crowd=10x1M", "huge=10x1G"])
    } else {
        (
            &["small", "dense=400K,1M,4M", "sparse=4M,64M,1G,4G,16G", "scattered=4M,64M,1G"],
            &["crowd=10x4M,100x4M", "huge=10x1G,100x1G"],
        )
    };
    [
        Plan { what: PRIVATE, wanted: private, memory: "2G", cmdline: "" },
        Plan { what: CROWDS, wanted: crowds, memory: "3G", cmdline: POOL },
    ]
}

/// Why the lists on the clock are shorter than those under emulation.
pub const ON_THE_CLOCK: &str = "a KVM that interprets the guest's kernel takes about a millisecond for a page fault, so larger ones would \
     take hours; what they take in instructions is in the other table";
