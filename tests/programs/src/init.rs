//! A program that is PID 1 of a Linux kernel, whose initramfs has it as `/init`.

use crate::process;

/// What PID 1 does: it mounts /proc, runs the program itself with the same words as a child, as it is elsewhere, and switches
/// the machine off. `name` stands before what it says.
pub fn run(name: &str, own_path: &str, wanted: &[String]) -> ! {
    let _ = std::fs::create_dir("/proc");
    // SAFETY: all strings are NUL-terminated constants; proc takes no data.
    unsafe { libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, std::ptr::null()) };
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("{name}: Linux {}", version.trim());
    match std::process::Command::new(own_path).args(wanted).status() {
        Ok(status) => println!("{name}: {status}"),
        Err(error) => println!("{name}: cannot run {own_path}: {error}"),
    }
    // SAFETY: no pointer. What is lost is an initramfs.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    loop {
        process::sleep_ms(1000);
    }
}
