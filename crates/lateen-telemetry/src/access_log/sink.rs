//! Writing log lines: a buffer per worker, a bounded queue, one thread per file.
//!
//! A worker appends to its own [`LogWriter`]; full buffers and, once per interval, partial ones go to the queue. When
//! the file or pipe is slow and the queue is full, lines are dropped and counted. Buffers come back and are reused.
//! Rotation: move the file away, then [`Sink::reopen`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a sink buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkOptions {
    /// A worker's buffer is handed over when it holds this many bytes. 16 KiB is about sixty lines of Istio's format.
    pub buffer_bytes: usize,
    /// Buffers that may wait for the file: with 16 KiB each, 4 MiB at most.
    pub queue_buffers: usize,
    /// A line waits this long at most. Envoy's default is 10 s; one second makes `logs -f` feel live.
    pub flush_interval: Duration,
}

impl Default for SinkOptions {
    fn default() -> Self {
        SinkOptions {
            buffer_bytes: 16 * 1024,
            queue_buffers: 256,
            flush_interval: Duration::from_secs(1),
        }
    }
}

/// A log line longer than this is dropped: a format with large headers must not exhaust memory.
const LONGEST_LINE: usize = 256 * 1024;
/// Buffers that may lie idle between the writing thread and one worker.
const SPARE_BUFFERS: usize = 4;

/// What happened to lines so far.
#[derive(Debug, Default)]
pub struct SinkStats {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl SinkStats {
    /// Lines that were written.
    pub fn lines_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Lines that were dropped because the queue was full or they were too long.
    pub fn lines_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lines that were lost because writing failed.
    pub fn lines_failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

enum Message {
    Lines {
        bytes: Vec<u8>,
        lines: u64,
        back: SyncSender<Vec<u8>>,
    },
    Reopen,
    Flush(SyncSender<()>),
}

/// A file, or standard output or error, that log lines are written to.
///
/// Its thread ends when the sink and every [`LogWriter`] are gone.
#[derive(Debug)]
pub struct Sink {
    queue: SyncSender<Message>,
    stats: Arc<SinkStats>,
    options: SinkOptions,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Opens `path` for appending; `/dev/stdout` and `/dev/stderr` are this process's own.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn open(path: &Path, options: SinkOptions) -> io::Result<Sink> {
        let target = Target::open(path)?;
        Sink::start(target, options)
    }

    fn start(target: Target, options: SinkOptions) -> io::Result<Sink> {
        let (queue, messages) = sync_channel(options.queue_buffers.max(1));
        let stats = Arc::new(SinkStats::default());
        let mut writing = Writing {
            target,
            stats: Arc::clone(&stats),
            complained: None,
        };
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writing.run(&messages))?;
        Ok(Sink {
            queue,
            stats,
            options,
            thread: Some(thread),
        })
    }

    /// A buffer for one worker.
    pub fn writer(&self) -> LogWriter {
        let (back, spare) = sync_channel(SPARE_BUFFERS);
        LogWriter {
            queue: self.queue.clone(),
            stats: Arc::clone(&self.stats),
            options: self.options,
            buffer: Vec::with_capacity(self.options.buffer_bytes),
            lines: 0,
            last_flush: Instant::now(),
            back,
            spare,
        }
    }

    /// Counts of lines.
    pub fn stats(&self) -> &Arc<SinkStats> {
        &self.stats
    }

    /// Opens the path again, for log rotation. What was handed over before goes to the old file.
    pub fn reopen(&self) {
        // A full queue means that the thread is behind; rotation tools ask again.
        let _ = self.queue.try_send(Message::Reopen);
    }

    /// Waits until everything that was handed over is written, `patience` at most; whether it was. Blocks: not for
    /// workers.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let (done, waiting) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Full(_)) => return false,
            }
        }
        waiting
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
    }

    /// Flushes and ends the thread. The writers must be gone, or this only flushes. A file that does not take its
    /// lines within `patience` is abandoned: a stuck pipe must not keep a process from ending.
    pub fn close(mut self, patience: Duration) -> bool {
        let flushed = self.flush(patience);
        let thread = self.thread.take();
        drop(self);
        if flushed && let Some(thread) = thread {
            let deadline = Instant::now() + patience;
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        flushed
    }
}

/// One worker's end of a [`Sink`].
#[derive(Debug)]
pub struct LogWriter {
    queue: SyncSender<Message>,
    stats: Arc<SinkStats>,
    options: SinkOptions,
    buffer: Vec<u8>,
    lines: u64,
    last_flush: Instant,
    back: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

impl LogWriter {
    /// Appends one line, which `line` writes into the buffer it is given (with its own line end).
    pub fn write(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        line(&mut self.buffer);
        if self.buffer.len() - start > LONGEST_LINE {
            self.buffer.truncate(start);
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.lines += 1;
        if self.buffer.len() >= self.options.buffer_bytes {
            self.flush();
        }
    }

    /// To be called now and then (every [`SinkOptions::flush_interval`] or more often): hands over lines that have
    /// waited for the interval.
    pub fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_flush) >= self.options.flush_interval {
            self.flush();
            self.last_flush = now;
        }
    }

    /// Hands over what is buffered, without waiting.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let empty = self.spare.try_recv();
        let empty = empty.unwrap_or_else(|_| Vec::with_capacity(self.options.buffer_bytes));
        let bytes = std::mem::replace(&mut self.buffer, empty);
        let lines = std::mem::take(&mut self.lines);
        let message = Message::Lines {
            bytes,
            lines,
            back: self.back.clone(),
        };
        if let Err(error) = self.queue.try_send(message) {
            self.stats.dropped.fetch_add(lines, Ordering::Relaxed);
            let (TrySendError::Full(message) | TrySendError::Disconnected(message)) = error;
            if let Message::Lines { mut bytes, .. } = message {
                bytes.clear();
                self.buffer = bytes;
            }
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

enum Target {
    File { path: PathBuf, file: File },
    Stdout(io::Stdout),
    Stderr(io::Stderr),
}

impl Target {
    fn open(path: &Path) -> io::Result<Target> {
        // Opening /dev/stdout anew fails when it is a socket, and would not share its offset when it is a file.
        match path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => {
                Ok(Target::Stdout(io::stdout()))
            }
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => {
                Ok(Target::Stderr(io::stderr()))
            }
            _ => Ok(Target::File {
                path: path.to_owned(),
                file: append(path)?,
            }),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::File { file, .. } => file.write_all(bytes),
            Target::Stdout(out) => {
                let mut out = out.lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Target::Stderr(out) => out.write_all(bytes),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The writing thread's state.
struct Writing {
    target: Target,
    stats: Arc<SinkStats>,
    /// When a failure was last reported: a full disk must not fill the program's log too.
    complained: Option<Instant>,
}

impl Writing {
    fn run(&mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Lines {
                mut bytes,
                lines,
                back,
            } => {
                match self.target.write_all(&bytes) {
                    Ok(()) => self.stats.written.fetch_add(lines, Ordering::Relaxed),
                    Err(error) => {
                        self.complain(&error);
                        self.stats.failed.fetch_add(lines, Ordering::Relaxed)
                    }
                };
                // A buffer that one long line had grown is not worth keeping.
                if bytes.capacity() <= LONGEST_LINE {
                    bytes.clear();
                    let _ = back.try_send(bytes);
                }
            }
            Message::Reopen => {
                if let Target::File { path, file } = &mut self.target {
                    match append(path) {
                        Ok(new) => *file = new,
                        Err(error) => self.complain(&error),
                    }
                }
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }

    fn complain(&mut self, error: &io::Error) {
        let recently = |at: Instant| at.elapsed() < Duration::from_secs(60);
        if !self.complained.is_some_and(recently) {
            self.complained = Some(Instant::now());
            tracing::warn!(%error, "writing the access log failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patient() -> Duration {
        Duration::from_secs(10)
    }

    #[test]
    fn lines_reach_the_file_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let sink = Sink::open(&path, SinkOptions::default()).unwrap();
        let mut writer = sink.writer();
        for index in 0..5000 {
            writer.write(|out| writeln!(out, "line {index}").unwrap());
        }
        writer.flush();
        assert!(sink.flush(patient()));
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: String = (0..5000).map(|index| format!("line {index}\n")).collect();
        assert_eq!(text, expected);
        assert_eq!(sink.stats().lines_written(), 5000);
    }

    #[test]
    fn a_tick_hands_over_what_waited_for_the_interval() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let sink = Sink::open(&path, SinkOptions::default()).unwrap();
        let mut writer = sink.writer();
        writer.write(|out| out.extend_from_slice(b"one\n"));
        writer.tick(Instant::now());
        assert!(sink.flush(patient()));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "",
            "the interval is not over"
        );
        writer.tick(Instant::now() + Duration::from_secs(2));
        assert!(sink.flush(patient()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }

    #[test]
    fn a_reopened_sink_writes_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let moved = directory.path().join("access.log.1");
        let sink = Sink::open(&path, SinkOptions::default()).unwrap();
        let mut writer = sink.writer();
        writer.write(|out| out.extend_from_slice(b"before\n"));
        writer.flush();
        assert!(sink.flush(patient()));
        std::fs::rename(&path, &moved).unwrap();
        sink.reopen();
        writer.write(|out| out.extend_from_slice(b"after\n"));
        drop(writer);
        assert!(sink.close(patient()));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "before\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn a_stuck_file_costs_lines_and_never_time() {
        let (reader, pipe) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(pipe));
        let target = Target::File {
            path: PathBuf::from("unused"),
            file,
        };
        // One buffer is already more than a pipe holds.
        let buffer_bytes = 128 * 1024;
        let options = SinkOptions {
            buffer_bytes,
            queue_buffers: 2,
            ..Default::default()
        };
        let sink = Sink::start(target, options).unwrap();
        let mut writer = sink.writer();
        let began = Instant::now();
        for _ in 0..10_000 {
            writer.write(|out| out.extend_from_slice(&[b'x'; 99]));
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "nobody reads the pipe, nobody waits"
        );
        assert!(sink.stats().lines_dropped() > 1000);
        assert!(!sink.flush(Duration::from_millis(20)));
        drop(reader);
    }

    #[test]
    fn an_endless_line_is_dropped_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let sink = Sink::open(&path, SinkOptions::default()).unwrap();
        let mut writer = sink.writer();
        writer.write(|out| out.extend_from_slice(b"short\n"));
        writer.write(|out| out.resize(out.len() + LONGEST_LINE + 1, b'x'));
        writer.flush();
        assert!(sink.flush(patient()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
        assert_eq!(sink.stats().lines_dropped(), 1);
    }

    #[test]
    fn an_unwritable_path_is_an_error_at_once() {
        let path = Path::new("/nonexistent-directory/access.log");
        assert!(Sink::open(path, SinkOptions::default()).is_err());
    }
}
