//! What the kernel tells of a process: CPU time and memory of a broker by pid, and the bound on our own descriptors.

use std::time::Duration;
use std::{fs, io};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    pub resident: u64,
    pub resident_peak: u64,
}

/// CPU time, user and system, of all threads of a process.
///
/// The sum over the threads there are is exact to the nanosecond and leaves out those that have ended; the sum of the
/// process counts them and is rounded down to a clock tick (10 ms). The larger is nearer to the truth.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let of_process = Duration::from_micros(ticks * 1_000_000 / per_second);
    Ok(of_process.max(threads(pid, 0)?))
}

/// How long the threads of a process were ready to run while others had the core, summed up.
///
/// A broker or generator that has to wait for its core is measured together with its neighbours.
pub fn wait_time(pid: u32) -> io::Result<Duration> {
    threads(pid, 1)
}

/// One field of `schedstat`, in nanoseconds, summed up over the threads of a process.
fn threads(pid: u32, number: usize) -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ends meanwhile, or a kernel that does not count, adds nothing.
        let schedstat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let field = schedstat.split_ascii_whitespace().nth(number);
        let nanoseconds = field.and_then(|field| field.parse().ok());
        sum += Duration::from_nanos(nanoseconds.unwrap_or(0));
    }
    Ok(sum)
}

/// Resident memory of a process and the most it ever was.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Memory {
        resident: status_kib(&status, "VmRSS:").unwrap_or(0),
        resident_peak: status_kib(&status, "VmHWM:").unwrap_or(0),
    })
}

/// Raises the bound on open descriptors to `wanted` if the hard bound allows; returns the bound that then holds.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let mut limits = getrlimit(Resource::Nofile);
    let unlimited = u64::MAX;
    if limits.current.unwrap_or(unlimited) < wanted {
        limits.current = Some(wanted.min(limits.maximum.unwrap_or(unlimited)));
        // Where it is refused, the bound returned says so.
        let _ = setrlimit(Resource::Nofile, limits);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(unlimited)
}

/// utime + stime of a `stat` line, whose second field may contain anything, also spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn status_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_process_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 31 11 0 0 20";
        assert_eq!(ticks(stat), Some(42));
    }

    #[test]
    fn own_memory_is_read() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident > 100 && memory.resident_peak >= memory.resident);
    }
}
