//! A child process whose output is collected line by line while it runs.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How often a waiting helper looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
    collectors: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a program with no standard input.
    pub fn start<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start_command(command)
    }

    /// Starts a command; its streams are replaced.
    pub fn start_command(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let stdout = Arc::<Mutex<Vec<String>>>::default();
        let stderr = Arc::<Mutex<Vec<String>>>::default();
        let collectors = vec![
            collect(child.stdout.take().expect("piped"), Arc::clone(&stdout)),
            collect(child.stderr.take().expect("piped"), Arc::clone(&stderr)),
        ];
        Self { child, stdout, stderr, collectors }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().expect("no collector panics").clone()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().expect("no collector panics").clone()
    }

    /// Sends a signal; a process that has ended already is no error.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are positive i32");
        let pid = Pid::from_raw(id).expect("a process id is not 0");
        // The process may have ended between the caller's decision and now.
        let _ended = kill_process(pid, signal);
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end, and for the last of its output.
    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.try_wait() {
                break status;
            }
            assert!(
                start.elapsed() < at_most,
                "process {} still runs after {at_most:?}; stderr:\n{}",
                self.id(),
                self.stderr().join("\n")
            );
            thread::sleep(POLL_INTERVAL);
        };
        for collector in self.collectors.drain(..) {
            collector.join().expect("a collector does not panic");
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn collect(stream: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            lines.lock().expect("no reader panics").push(text);
            line.clear();
        }
    })
}

/// The resident memory of a process in bytes, or `None` where the system does not tell.
pub fn resident_bytes(process: u32) -> Option<u64> {
    memory(process, "VmRSS:")
}

/// The most resident memory a process ever had, in bytes, or `None` where the system does not tell.
pub fn peak_resident_bytes(process: u32) -> Option<u64> {
    memory(process, "VmHWM:")
}

fn memory(process: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
