//! Busybox, a program that nobody here wrote: scripts whose stdout, stderr and status must equal the host's.

use ptshare_boot_tests::{Programs, assert_clean, config, difference, guest, have_busybox};

/// Name and script. Each runs in an empty directory of its own and prints nothing that depends on the time, the user, where
/// it runs, or how fast (a shell reports a killed child only when it had to wait for it).
const SCRIPTS: &[(&str, &str)] = &[
    ("echo", "echo one two; echo -n three; echo; echo -e 'a\\tb'"),
    ("pipeline", "printf 'c\\na\\nb\\n' | sort | tr a-z A-Z | sed 's/^/> /' | cat -n"),
    ("while-loop", "i=0; while [ $i -lt 10 ]; do i=$((i + 1)); echo $i; done"),
    ("for-loop", "for x in a b 'c d'; do for y in 1 2; do echo \"$x-$y\"; done; done"),
    ("subshell", "x=1; (x=2; cd /; echo $x); echo $x; (exit 5); echo $?"),
    ("background", "sleep 0.2 & sleep 0.1 & wait; (exit 3) & wait $!; echo $?"),
    ("jobs-wait", "for i in 3 1 2; do (sleep 0.$i; echo $i > f$i) & done; wait; cat f1 f2 f3; rm f?; ls"),
    ("sort-numbers", "seq 1 40 | awk '{print ($1 * 7919) % 101}' | sort -n | uniq | head -20"),
    ("sort-keys", "printf 'b 2\\na 10\\nc 1\\na 9\\n' | sort -k1,1 -k2,2n; printf '3\\n1\\n2\\n' | sort -r"),
    (
        "awk-fields",
        "printf 'a:1\\nb:2\\nc:3\\n' | awk -F: '{s += $2; n[$1] = $2} END {print s, n[\"b\"], NR}'",
    ),
    (
        "awk-program",
        "awk 'BEGIN {for (i = 1; i < 15; i++) f = (i % 15 == 0) ? f \"x\" : f \".\"; print length(f), toupper(substr(f \"abc\", 14)); printf \"%05.2f|%-5s|%x\\n\", 3.14159, \"ab\", 255}'",
    ),
    ("sed", "seq 1 10 | sed -n '3,5p;7s/7/seven/p'; echo hello | sed -E 's/(h)(e)/\\2\\1/; y/lo/01/'"),
    ("sed-in-place", "seq 1 5 > f; sed -i '2d;s/4/four/' f; cat f; ls"),
    (
        "find",
        "mkdir -p a/b/c; touch a/1 a/b/2 a/b/c/3.txt; find a | sort; find a -name '*.txt'; find a -type d | sort | xargs echo; find a -type f -exec echo found {} \\; | sort",
    ),
    (
        "dd",
        "dd if=/dev/zero of=z bs=1k count=64 2>/dev/null; wc -c < z; dd if=z bs=512 skip=2 count=3 2>/dev/null | wc -c; printf abcdef | dd bs=1 skip=2 count=3 2>/dev/null; echo",
    ),
    ("md5sum", "seq 1 1000 | md5sum; echo -n > e; md5sum e; seq 1 5000 | sha256sum; seq 1 100 | sha1sum"),
    (
        "here-document",
        "x=value; cat <<END\nplain $x $((1 + 2))\nEND\ncat <<'END'\nquoted $x\nEND\ncat <<-END\n\ttabs gone\n\tEND\n",
    ),
    (
        "kill",
        "sleep 100 & p=$!; kill $p; { wait $p; echo $?; } 2>/dev/null; sleep 100 & kill -9 $!; { wait $!; echo $?; } 2>/dev/null; kill -0 $$ && echo alive",
    ),
    (
        "trap",
        "trap 'echo usr1' USR1; trap 'echo leaving' EXIT; kill -USR1 $$; kill -USR1 $$; trap '' TERM; kill $$; echo still here",
    ),
    ("trap-child", "trap 'echo got it' TERM; (sleep 0.2; kill $$) & wait; echo waited $?; wait; echo done"),
    (
        "substitution",
        "x=$(echo a; echo b); echo \"$x\"; echo $(echo $(echo nested)); y=`echo old`; echo $y; echo \"$(seq 1 3 | tr '\\n' ,)\"",
    ),
    (
        "arithmetic",
        "echo $((7 / 2)) $((7 % 3)) $((1 << 20)) $((0x1f ^ 5)) $(((2 + 3) * 4)); x=5; echo $((x += 3)) $x $((x > 7 ? 1 : 0))",
    ),
    (
        "case",
        "for w in apple banana 123 ''; do case $w in a*) echo A;; *an*) echo B;; [0-9]*) echo digits;; *) echo other;; esac; done",
    ),
    (
        "functions",
        "f() { local v=$1; [ $v -le 1 ] && { echo 1; return 0; }; echo $((v * $(f $((v - 1))))); }; f 6; g() { return 9; }; g; echo $?",
    ),
    (
        "redirections",
        "echo out > f; echo more >> f; cat < f; ls /nonexistent 2> e; test -s e && echo some; { echo 1; echo 2 >&2; } > both 2>&1; cat both; exec 3> three; echo x >&3; exec 3>&-; cat three",
    ),
    ("stderr", "echo to stderr >&2; ls /no/such/file; cat nothing; cd nowhere"),
    (
        "xargs",
        "seq 1 10 | xargs -n 3 echo line; printf 'a b\\0c' | xargs -0 -n 1 echo; seq 1 3 | xargs -I X echo [X]",
    ),
    (
        "cut-tr",
        "echo a:b:c:d | cut -d: -f2,4; echo hello | cut -c2-3; echo Hello | tr -d l; echo aabbcc | tr -s abc; echo abc | tr a-c x-z",
    ),
    (
        "uniq-wc",
        "printf 'a\\na\\nb\\na\\n' > f; uniq -c f; sort f | uniq -d; wc f; wc -l < f; printf 'x y z' | wc -w",
    ),
    (
        "head-tail",
        "seq 1 100 > n; head -n 3 n; tail -n 2 n; head -c 10 n; tail -n +98 n; head -n 5 n | tail -n 1",
    ),
    (
        "printf",
        "printf '%s|%5d|%-5s|%05d|%x|%o\\n' str 42 ab 7 255 8; printf '%s\\n' a b c; printf '\\101\\t%%\\n'",
    ),
    (
        "test",
        "test -d / && echo dir; [ -f / ] || echo nofile; [ abc = abc ] && echo eq; [ 3 -gt 2 -a 1 -lt 2 ] && echo both; touch e; [ -s e ] || echo empty; [ -x /bin/busybox ] && echo exec",
    ),
    (
        "files",
        "mkdir d; echo x > d/a; cp d/a d/b; mv d/b d/c; ln d/a d/hard; ln -s a d/soft; ls d; cat d/soft; readlink d/soft; rm d/a; cat d/hard; cat d/soft; rmdir d; rm -r d; ls",
    ),
    (
        "ls",
        "umask 022; mkdir d; echo abc > f; chmod 640 f; ln -s f s; chmod 700 d; ls -ln | awk 'NR > 1 {print $1, ($1 ~ /^-/) ? $5 : \"\", $9}'; ls -a; ls -1 d",
    ),
    (
        "stat",
        "echo hello > f; chmod 4755 f; stat -c '%a %s %F %h' f; ln f g; stat -c '%h' f; stat -c '%F' . /dev/null",
    ),
    (
        "date",
        "date -u -d @0; date -u -d @1700000000 '+%Y-%m-%d %H:%M:%S %j %a'; TZ=UTC date -d '2024-02-29 12:00:00' +%s",
    ),
    ("expr", "expr 6 \\* 7; expr length hello; expr hello : 'h\\(.*\\)o'; expr 5 \\> 9; expr index abcdef d"),
    ("tee", "echo both | tee a b; cat a b; echo more | tee -a a > /dev/null; cat a"),
    (
        "grep",
        "printf 'apple\\nbanana\\ncherry\\n' > f; grep an f; grep -c a f; grep -v a f; grep -E '^(a|c)' f; grep -n rr f; grep -q zzz f; echo $?; grep -o 'an' f; grep -i APPLE f",
    ),
    (
        "tar",
        "mkdir d; seq 1 500 > d/n; echo hi > d/h; ln -s h d/s; tar cf t.tar d; rm -r d; gzip t.tar; gunzip -c t.tar.gz | tar xf -; cat d/h d/s; md5sum d/n; gunzip t.tar.gz; tar tf t.tar | sort",
    ),
    (
        "gzip",
        "seq 1 2000 > n; md5sum < n; gzip n; ls; gunzip -c n.gz | md5sum; gzip -t n.gz && echo ok; zcat n.gz | tail -n 1",
    ),
    (
        "read-loop",
        "printf 'a 1\\nb 2\\nc 3\\n' | while read name value; do echo \"$value=$name\"; done; IFS=: read x y <<E\n1:2:3\nE\necho \"$x $y\"",
    ),
    (
        "exit-codes",
        "true; echo $?; false; echo $?; nosuchcommand; echo $?; /dev/null; echo $?; sh -c 'kill -9 $$'; echo $?; exit 42",
    ),
    (
        "ulimit",
        "ulimit -n 64; ulimit -n; ulimit -s 4096; ulimit -s; ulimit -c 0; ulimit -c; sh -c 'ulimit -n'",
    ),
    (
        "env",
        "env -i A=1 B=2 env; X=5 env | grep ^X=; export Y=6; sh -c 'echo $Y'; unset Y; sh -c 'echo [$Y]'; env | grep -v ^PWD= | sort",
    ),
    (
        "variables",
        "x=hello.tar.gz; echo ${x%.*} ${x%%.*} ${x#*.} ${#x} ${y:-default} ${x:+set}; y=; echo ${y:=assigned} $y; set -- a b c; echo $# $2 \"$*\"; shift; echo $1",
    ),
    (
        "set-options",
        "set -e; (set +e; false; echo survived); set -u; (echo $undefined) 2>/dev/null || echo unset; false; echo never",
    ),
    (
        "fifo",
        "mkfifo p; (echo through > p) & cat p; wait; (seq 1 3 > p) & while read l; do echo got $l; done < p",
    ),
    (
        "big-pipe",
        "seq 1 30000 | awk '{s += $1} END {print s}'; yes | head -n 1000 | wc -l; cat /dev/zero | head -c 300000 | wc -c",
    ),
    (
        "process-tree",
        "sh -c 'sh -c \"sh -c \\\"echo deep; exit 4\\\"; echo \\$?; exit 5\"; echo $?; exit 6'; echo $?",
    ),
    (
        "timeout",
        "timeout 1 sleep 100; echo $?; timeout 5 true; echo $?; time -p true 2>&1 | awk '{print $1}'",
    ),
    (
        "getopts",
        "set -- -a -b value rest; while getopts ab: o; do echo $o $OPTARG; done; shift $((OPTIND - 1)); echo $1",
    ),
    ("diff-cmp", "seq 1 5 > a; seq 1 6 > b; cmp a b; echo $?; diff a b; echo $?; diff a a && echo same"),
    (
        "hexdump",
        "printf '\\001\\002abc' | hexdump -C; printf 'hello' | od -c; printf 'hi' | xxd; echo aGVsbG8K | base64 -d; echo hello | base64",
    ),
    (
        "many-forks",
        "i=0; while [ $i -lt 30 ]; do (exit $i); r=$?; [ $r = $i ] || echo bad; i=$((i + 1)); done; echo $i",
    ),
];

fn compare(sharing: &str) {
    let Some(built) = guest() else { return };
    if !have_busybox() {
        return;
    }
    let mut programs = Programs::new();
    for (name, script) in SCRIPTS {
        programs.script(name, script);
    }
    let (outcome, results) = programs.boot(&built, config(&built, sharing));
    let differences: String =
        results.iter().zip(programs.on_host()).map(|(guest, host)| difference(guest, &host, true)).collect();
    assert!(differences.is_empty(), "{differences}{}", outcome.kernel_log);
    assert_clean(&outcome);
}

#[test]
fn scripts_end_as_on_the_host_with_shared_pte_pages() {
    compare("pte");
}

#[test]
fn scripts_end_as_on_the_host_without_sharing() {
    compare("none");
}

#[test]
fn scripts_are_the_same_twice_on_the_host() {
    if !have_busybox() {
        return;
    }
    let mut programs = Programs::new();
    for (name, script) in SCRIPTS {
        programs.script(name, script);
    }
    for ((first, second), (name, _)) in programs.on_host().iter().zip(programs.on_host()).zip(SCRIPTS) {
        assert_eq!(String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&second.stdout), "{name}");
        assert_eq!(String::from_utf8_lossy(&first.stderr), String::from_utf8_lossy(&second.stderr), "{name}");
        assert_eq!(first.wait_status, second.wait_status, "{name}");
    }
}
