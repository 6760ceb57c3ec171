//! How the guest's binaries are built, and the only place that knows their compiler flags.
//!
//! The kernel must hold no SSE instruction (see [`crate::isa`]). Two ways lead there on a stable compiler:
//! - [`Target::None`]: the target `x86_64-unknown-none`, soft-float by nature, where rustup has installed it;
//! - [`Target::LinuxLto`]: the ordinary Linux target with SSE switched off and fat LTO, so that `core` and `alloc`, which
//!   come as bitcode, are compiled again without SSE. rustc warns that it may refuse these features on this target one
//!   day.
//!
//! init and the test programs run in user mode and are built as usual.

use crate::{isa, paths, process};
use anyhow::{Context, Result, bail};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of everything that runs on Linux's system-call interface.
const LINUX: &str = "x86_64-unknown-linux-gnu";
/// The bare-metal target.
const NONE: &str = "x86_64-unknown-none";

/// What the kernel's code must look like, whatever the target.
const KERNEL_CODE: &[&str] = &["--cfg", "guest", "-C", "relocation-model=static", "-C", "code-model=kernel"];
/// What makes the Linux target fit for a kernel.
const KERNEL_LINUX: &[&str] = &[
    "-C",
    "no-redzone=yes",
    "-C",
    "target-feature=-sse,-sse2,-mmx,+soft-float",
    "-C",
    "link-arg=-nostartfiles",
    "-C",
    "link-arg=-nostdlib",
    "-C",
    "link-arg=-static",
    "-C",
    "link-arg=-no-pie",
    "-C",
    "link-arg=-Wl,--build-id=none",
];
/// init: user mode, static, without libc.
const INIT: &[&str] = &[
    "--cfg",
    "guest",
    "-C",
    "relocation-model=static",
    "-C",
    "link-arg=-nostartfiles",
    "-C",
    "link-arg=-nostdlib",
    "-C",
    "link-arg=-static",
    "-C",
    "link-arg=-no-pie",
];
/// Test programs: ordinary static executables.
const PROGRAMS: &[&str] = &["-C", "target-feature=+crt-static"];

/// How the kernel is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Target {
    /// `x86_64-unknown-none`, which must be installed
    None,
    /// `x86_64-unknown-linux-gnu` without SSE, by fat LTO
    LinuxLto,
}

impl Target {
    /// Whether this compiler has what the target needs.
    pub fn available(self) -> bool {
        let name = match self {
            Target::None => NONE,
            Target::LinuxLto => LINUX,
        };
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        process::answer(&rustc, &["--print", "target-libdir", "--target", name])
            .is_some_and(|dir| Path::new(&dir).is_dir())
    }
}

/// What to build, and how loud to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The kernel with its own checks on.
    pub checked: bool,
    /// The kernel with the deliberate bugs of `ptshare-mutants` compiled in, for `mutant=NAME` on its command line.
    pub mutants: bool,
    /// How the kernel is built.
    pub target: Target,
    /// Cargo's own output is shown.
    pub verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { checked: false, mutants: false, target: Target::LinuxLto, verbose: false }
    }
}

impl Options {
    /// The kernel's target folder, and its target. Features do not show in the path that Cargo gives a binary, so the
    /// kernel with bugs has a folder of its own.
    fn place(&self) -> (&'static str, &'static str) {
        match (self.target, self.mutants) {
            (Target::None, false) => ("guest-none", NONE),
            (Target::None, true) => ("guest-none-mutants", NONE),
            (Target::LinuxLto, false) => ("guest", LINUX),
            (Target::LinuxLto, true) => ("guest-mutants", LINUX),
        }
    }
}

/// The built files that a guest boots with.
#[derive(Clone, Debug)]
pub struct Artefacts {
    /// The kernel, an ELF file with a PVH note.
    pub kernel: PathBuf,
    /// The first process.
    pub init: PathBuf,
    /// The folder of the test programs.
    pub programs: PathBuf,
}

impl Artefacts {
    /// Where they are once built.
    pub fn expected(options: &Options) -> Artefacts {
        let profile = if options.checked { "guest-checked" } else { "guest" };
        let (folder, target) = options.place();
        Artefacts {
            kernel: paths::target().join(folder).join(target).join(profile).join("ptshare-kernel"),
            init: paths::target().join("init").join(LINUX).join("guest").join("ptshare-init"),
            programs: paths::target().join("programs").join(LINUX).join("programs"),
        }
    }

    /// The path of a test program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

fn cargo(verb: &str, package: &str, profile: &str, target: &str, folder: &str, flags: &[String]) -> Command {
    let mut command = process::cargo(verb);
    command.args(["--package", package, "--profile", profile, "--target", target, "--target-dir"]);
    command.arg(paths::target().join(folder)).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command
}

/// Compiler flags of the kernel.
///
/// # Errors
/// The linker script cannot be read.
fn kernel_flags(target: Target) -> Result<Vec<String>> {
    let mut flags = owned(KERNEL_CODE);
    if target == Target::LinuxLto {
        flags.extend(owned(KERNEL_LINUX));
    }
    let script = paths::root().join("guest/kernel/link.ld");
    let text = std::fs::read(&script).with_context(|| format!("cannot read {}", script.display()))?;
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    // Cargo does not know the linker script; a flag that changes with it makes Cargo link again.
    flags.extend(["--cfg".into(), format!("guest_link_script=\"{:016x}\"", hasher.finish())]);
    flags.extend(["-C".into(), format!("link-arg=-T{}", script.display())]);
    Ok(flags)
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

/// A clippy run over the kernel as it is built for the guest.
///
/// # Errors
/// As [`kernel_flags`].
pub fn lint_kernel(target: Target) -> Result<Command> {
    let mut command = cargo("clippy", "ptshare-kernel", "guest", LINUX, "lint", &kernel_flags(target)?);
    command.args(["--", "-D", "warnings"]);
    Ok(command)
}

/// A clippy run over init as it is built for the guest.
pub fn lint_init() -> Command {
    let mut command = cargo("clippy", "ptshare-init", "guest", LINUX, "lint-init", &owned(INIT));
    command.args(["--", "-D", "warnings"]);
    command
}

/// Builds the kernel alone, and checks its instructions when it has changed.
///
/// # Errors
/// Cargo fails, or the kernel holds a forbidden instruction.
pub fn build_kernel(options: &Options) -> Result<PathBuf> {
    let (folder, target) = options.place();
    if !options.target.available() {
        bail!(
            "the compiler has no {target} target here: `rustup target add {target}`, or leave the choice of target to \
             the default"
        );
    }
    let profile = if options.checked { "guest-checked" } else { "guest" };
    let what = match (options.target, options.checked) {
        _ if options.mutants => "building the guest kernel with the deliberate bugs",
        (Target::LinuxLto, false) => "building the guest kernel",
        (Target::LinuxLto, true) => "building the guest kernel with its checks on",
        (Target::None, false) => "building the guest kernel for x86_64-unknown-none",
        (Target::None, true) => "building the guest kernel for x86_64-unknown-none with its checks on",
    };
    let mut command =
        cargo("build", "ptshare-kernel", profile, target, folder, &kernel_flags(options.target)?);
    if options.mutants {
        command.args(["--features", "mutants"]);
    }
    process::quietly(what, &mut command, options.verbose)?;
    let kernel = Artefacts::expected(options).kernel;
    check_instructions(&kernel)?;
    Ok(kernel)
}

/// Runs [`isa::check_file`], unless it has passed on this very file before.
fn check_instructions(kernel: &Path) -> Result<()> {
    let meta = std::fs::metadata(kernel).with_context(|| format!("cannot find {}", kernel.display()))?;
    let identity = format!("{} {:?}\n", meta.len(), meta.modified()?);
    let stamp = kernel.with_extension("isa-checked");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == identity) {
        return Ok(());
    }
    isa::check_file(kernel)?;
    std::fs::write(&stamp, identity).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Builds all that a guest boots with.
///
/// # Errors
/// As [`build_kernel`].
pub fn build_all(options: &Options) -> Result<Artefacts> {
    build_kernel(options)?;
    let mut init = cargo("build", "ptshare-init", "guest", LINUX, "init", &owned(INIT));
    process::quietly("building init", &mut init, options.verbose)?;
    build_programs(options)
}

/// Builds the test programs alone.
///
/// # Errors
/// Cargo fails.
pub fn build_programs(options: &Options) -> Result<Artefacts> {
    let mut programs = cargo("build", "ptshare-programs", "programs", LINUX, "programs", &owned(PROGRAMS));
    process::quietly("building the test programs", &mut programs, options.verbose)?;
    Ok(Artefacts::expected(options))
}

/// The built files, for tests that do not build.
///
/// # Errors
/// One is missing.
pub fn find_built(options: &Options) -> Result<Artefacts> {
    let found = Artefacts::expected(options);
    for path in [&found.kernel, &found.init, &found.programs] {
        if !path.exists() {
            bail!("{} is missing: run `cargo xtask test`, which builds it", path.display());
        }
    }
    Ok(found)
}
