//! Facts about this process and its machine, as `/status` and `/debug/vars` show them.
//!
//! Everything here is read anew when asked, from the kernel, without waiting for anything. What a system does not
//! tell is left at zero or empty.

use std::{fs, path::Path, thread::available_parallelism};

use if_addrs::{IfAddr, Interface, get_if_addrs};
use serde_json::{Map, Value, json};

/// `/status` `os`.
pub(crate) fn os() -> Value {
    let executable = std::env::current_exe().unwrap_or_default();
    json!({
        "pid": std::process::id(),
        "ppid": rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        "page_size": rustix::param::page_size(),
        "executable": executable.to_string_lossy(),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
    })
}

/// `/status` `runtime`, under the names of Go's runtime.
pub(crate) fn runtime(toolchain: &str) -> Value {
    let cpus = available_parallelism().map_or(1, usize::from);
    json!({
        "GOARCH": architecture(),
        "GOOS": operating_system(),
        "GOMAXPROCS": cpus,
        "num_cpu": cpus,
        "num_goroutine": number_in_status("Threads:"),
        "version": toolchain,
        "kubernetes_hint": std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
    })
}

/// The architecture by Go's name for it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The operating system by Go's name for it.
fn operating_system() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// `/debug/vars` `memstats`: the fields of Go's that mean something here, the others zero.
pub(crate) fn memory() -> Value {
    let kilobytes = |key| number_in_status(key).saturating_mul(1024);
    let resident = kilobytes("VmRSS:");
    let peak = kilobytes("VmHWM:");
    let heap = kilobytes("VmData:");
    json!({
        "Alloc": resident,
        "TotalAlloc": peak,
        "Sys": kilobytes("VmSize:"),
        "Lookups": 0,
        "Mallocs": 0,
        "Frees": 0,
        "HeapAlloc": resident,
        "HeapSys": heap,
        "HeapIdle": heap.saturating_sub(resident),
        "HeapInuse": resident,
        "HeapReleased": 0,
        "HeapObjects": 0,
        "StackInuse": kilobytes("VmStk:"),
        "StackSys": kilobytes("VmStk:"),
        "MSpanInuse": 0,
        "MSpanSys": 0,
        "MCacheInuse": 0,
        "MCacheSys": 0,
        "BuckHashSys": 0,
        "GCSys": 0,
        "OtherSys": 0,
        "NextGC": 0,
        "LastGC": 0,
        "PauseTotalNs": 0,
        "PauseNs": [],
        "PauseEnd": [],
        "NumGC": 0,
        "NumForcedGC": 0,
        "GCCPUFraction": 0,
        "EnableGC": false,
        "DebugGC": false,
        "BySize": [],
    })
}

/// `/status` `network`.
pub(crate) fn network() -> Value {
    let mut interfaces = Map::new();
    for interface in get_if_addrs().unwrap_or_default() {
        let entry = interfaces.entry(interface.name.clone()).or_insert_with(|| {
            json!({
                "flags": interface_flags(&interface.name),
                "hardware_address": interface_fact(&interface.name, "address"),
                "addresses": [],
            })
        });
        if let Some(Value::Array(addresses)) = entry.get_mut("addresses") {
            addresses.push(json!({ "address": address_of(&interface) }));
        }
    }
    json!({ "interfaces": interfaces })
}

fn address_of(interface: &Interface) -> String {
    let (address, prefix) = match &interface.addr {
        IfAddr::V4(address) => (address.ip.to_string(), address.prefixlen),
        IfAddr::V6(address) => (address.ip.to_string(), address.prefixlen),
    };
    format!("{address}/{prefix}")
}

/// The flags of an interface by Go's names for them.
fn interface_flags(name: &str) -> String {
    const NAMES: [(u64, &str); 6] = [
        (0x1, "up"),
        (0x2, "broadcast"),
        (0x8, "loopback"),
        (0x10, "pointtopoint"),
        (0x1000, "multicast"),
        (0x40, "running"),
    ];
    let text = interface_fact(name, "flags");
    let bits = u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0);
    let held: Vec<&str> =
        NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if held.is_empty() { "0".to_owned() } else { held.join("|") }
}

/// One fact about an interface, as Linux tells it; an alias has those of its device.
fn interface_fact(name: &str, fact: &str) -> String {
    let device = name.split(':').next().unwrap_or(name);
    let path = Path::new("/sys/class/net").join(device).join(fact);
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A number in the process's status, as Linux tells it.
fn number_in_status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    number_after(&status, key)
}

fn number_after(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_a_status() {
        let status = "Name:\trqd\nVmRSS:\t   1234 kB\nThreads:\t7\n";
        assert_eq!(number_after(status, "VmRSS:"), 1234);
        assert_eq!(number_after(status, "Threads:"), 7);
        assert_eq!(number_after(status, "VmHWM:"), 0);
    }

    #[test]
    fn every_fact_has_a_value() {
        let os = os();
        assert_eq!(os["pid"], std::process::id());
        assert!(os["page_size"].as_u64().is_some_and(|size| size >= 4096), "{os}");
        assert!(runtime("rustc")["num_cpu"].as_u64().is_some_and(|cpus| cpus >= 1));
        assert!(network()["interfaces"].is_object());
        assert!(memory()["HeapInuse"].is_u64());
    }
}
