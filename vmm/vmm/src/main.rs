//! `ptshare-vmm`: runs a guest kernel from the command line.

use clap::Parser;
use ptshare_vmm::{
    Config, Console, Ending, EngineChoice, Initramfs, Verify, Watchdog, engine, exit_code, init_logging,
    json, verbosity,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Run a guest kernel under KVM or QEMU, with the host judging its page tables.
#[derive(Parser)]
#[command(version, after_help = after_help())]
struct Args {
    /// Guest kernel: an ELF file with a PVH note.
    #[arg(long)]
    kernel: PathBuf,
    /// Root file system: a cpio archive (newc).
    #[arg(long)]
    initramfs: Option<PathBuf>,
    /// What runs the guest: kvm, qemu, or auto (KVM where it can be used, otherwise QEMU).
    #[arg(long, default_value = "auto")]
    engine: EngineChoice,
    /// Under QEMU: the guest's clock counts instructions.
    #[arg(long)]
    icount: bool,
    /// Words added to the kernel command line.
    #[arg(long, default_value = "")]
    append: String,
    /// Guest memory, such as 512M or 64G; costs nothing until touched.
    #[arg(long, default_value = "512M", value_parser = ptshare_vmm::parse_size)]
    mem: u64,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// How fork shares page tables: none, pte or tree.
    #[arg(long, default_value = "pte")]
    sharing: String,
    /// When to verify: off, exit, every-exit, every-fault, faults:N; behind a plus sign or alone, random:HZ[,SEED].
    #[arg(long, default_value = "exit")]
    verify: Verify,
    /// End the run after this many seconds.
    #[arg(long, value_parser = seconds)]
    timeout: Option<Duration>,
    /// End the run after so many seconds in which some CPU is in the guest's kernel and no counter of the kernel moves; with
    /// `,strict` whatever the CPUs do.
    #[arg(long, value_name = "SECS[,strict]")]
    watchdog: Option<Watchdog>,
    /// Write a dump of guest memory here when an invariant is violated.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Write the dump also when a program asks for a checkpoint with this label, or at the `end`.
    #[arg(long, value_name = "end|LABEL")]
    dump_at: Option<String>,
    /// Write a JSON report here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Sample where the guest spends its time, and print a table by kernel function.
    #[arg(long)]
    profile: bool,
    /// More log output (-v info, -vv debug, -vvv trace).
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let n: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    Duration::try_from_secs_f64(n).map_err(|e| e.to_string())
}

fn after_help() -> String {
    let rows: Vec<_> = exit_code::TABLE.iter().map(|(code, what)| format!("  {code:3}  {what}")).collect();
    format!("Exit status: the guest's own, or\n{}", rows.join("\n"))
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help and version are not failures.
            let code = if e.use_stderr() { exit_code::USAGE } else { 0 };
            let _ = e.print();
            return code.into();
        }
    };
    let level = verbosity(args.verbose);
    init_logging(level);
    let engine = match engine::choose(args.engine) {
        Ok((engine, notice)) => {
            if let Some(notice) = notice {
                eprintln!("ptshare: {notice}");
            }
            engine
        }
        Err(e) => {
            eprintln!("ptshare: {e}");
            return exit_code::of_error(&e).into();
        }
    };
    let config = Config {
        engine: EngineChoice::Only(engine),
        icount: args.icount,
        kernel: args.kernel,
        initramfs: args.initramfs.map_or(Initramfs::Bytes(Vec::new()), Initramfs::File),
        cmdline_extra: args.append,
        mem_bytes: args.mem,
        cpus: args.cpus,
        sharing: args.sharing,
        verify: args.verify.mode,
        random: args.verify.random,
        timeout: args.timeout,
        watchdog: args.watchdog.filter(|how| !how.limit.is_zero()),
        console: Console::Inherit,
        dump_path: args.dump,
        dump_at: args.dump_at,
        log_level: level,
        profile: args.profile,
    };
    let outcome = match ptshare_vmm::run(&config) {
        Ok(outcome) => outcome,
        Err(e) => {
            eprintln!("ptshare: {e}");
            return exit_code::of_error(&e).into();
        }
    };
    if !matches!(outcome.ending, Ending::Exited(_)) {
        eprintln!("ptshare: {}", outcome.ending);
    }
    if let Some(samples) = &outcome.profile {
        eprint!("{}", samples.table());
    }
    if let Some(path) = args.json {
        let text = format!("{:#}\n", json::report(&config, &outcome, true));
        if let Err(e) = std::fs::write(&path, text) {
            eprintln!("ptshare: the report {} cannot be written: {e}", path.display());
            return exit_code::BAD_FILE.into();
        }
    }
    outcome.status.into()
}
