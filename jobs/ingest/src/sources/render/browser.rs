//! The process of a Chromium: found, begun, ended with all of its children, its folder removed.
//!
//! It has a folder of its own, an environment without a secret and a process group. It ends when its pipes do, however this process ends; the
//! folder of one that was killed is removed by the next.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::protocol::{Connection, Event};
use crate::{Environment, sources::web::client::PRODUCT};

/// Variable with the path of Chromium; absent: it is looked for on the PATH.
const PROGRAM: &str = "LAKEHOUSE_CHROMIUM";
/// Variable that, set to `off`, lets Chromium run without the sandbox of its own.
const SANDBOX: &str = "LAKEHOUSE_CHROMIUM_SANDBOX";
/// What it is called: by Debian, others, and its maker. The first is made for this and smallest.
const NAMES: [&str; 5] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
/// Longest time until it answers.
const LAUNCH: Duration = Duration::from_secs(60);
/// Longest time that its end takes.
const END: Duration = Duration::from_secs(3);
/// How the names of its folders begin.
const FOLDER: &str = "lakehouse-chromium-";
/// A file in the folder, locked as long as it is in use.
const LOCK: &str = "lock";
/// What it wrote to its standard error.
const SAID: &str = "stderr";
/// A folder that is younger may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// No connection of its own, nothing that it does for itself, nothing that depends on the machine.
const FLAGS: [&str; 30] = [
    "--headless",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--dns-prefetch-disable",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-domain-reliability",
    "--disable-extensions",
    // A page of http:// is asked for as the connection says.
    "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
    "--disable-gpu",
    "--disable-sync",
    "--block-new-web-contents",
    "--js-flags=--max-old-space-size=512",
    "--lang=en-US",
    "--log-level=2",
    "--metrics-recording-only",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-pings",
    "--password-store=basic",
    "--renderer-process-limit=1",
    "--window-size=1280,1024",
];

/// Finds Chromium.
///
/// # Errors
/// A line that says what to install.
pub fn find(environment: &Environment) -> Result<PathBuf, String> {
    if let Some(path) = environment(PROGRAM).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if is_program(&path) { Ok(path) } else { Err(format!("{PROGRAM} is {}, where there is no program", path.display())) };
    }
    let path = environment("PATH").unwrap_or_default();
    let found = NAMES.iter().find_map(|name| env::split_paths(&path).map(|folder| folder.join(name)).find(|path| is_program(path)));
    found.ok_or_else(|| {
        format!(
            "its pages are to be rendered, and there is no Chromium on the PATH: install it (Debian: chromium-headless-shell or chromium) \
             or say in {PROGRAM} where it is"
        )
    })
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// A Chromium at work.
pub struct Browser {
    /// Commands.
    pub connection: Connection,
    /// What happens in its tabs.
    pub events: Mutex<mpsc::UnboundedReceiver<Event>>,
    /// Its name and version, such as `HeadlessChrome/150.0.7871.100`.
    pub version: String,
    process: Process,
    proxy: JoinHandle<()>,
}

impl Browser {
    /// Begins the program.
    ///
    /// # Errors
    /// A line that says why it does not begin.
    pub async fn launch(program: &Path, environment: &Environment) -> Result<Self, String> {
        let named = |said: String| format!("{}: {said}", program.display());
        hide_memory();
        let (proxy, port) = closing_proxy().await.map_err(|error| named(error.to_string()))?;
        let sandbox = environment(SANDBOX).is_none_or(|value| value != "off");
        let begun = Process::begin(program, environment, port, sandbox).and_then(|(process, answers, commands)| {
            let (connection, events) = Connection::new(answers, commands)?;
            Ok((process, connection, events))
        });
        let (process, connection, events) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                proxy.abort();
                return Err(named(error.to_string()));
            }
        };
        let mut browser = Self { connection, events: Mutex::new(events), version: String::new(), process, proxy };
        match timeout(LAUNCH, browser.connection.call(None, "Browser.getVersion", json!({}))).await {
            Ok(Ok(version)) => browser.version = version["product"].as_str().unwrap_or_default().to_owned(),
            Ok(Err(fault)) => {
                let hint = format!("; where it cannot have a sandbox of its own, {SANDBOX}=off lets it run without (see SECURITY.md)");
                return Err(named(format!(
                    "{fault} at once, after it said: {}{}",
                    browser.process.said(),
                    if sandbox { &hint } else { "" }
                )));
            }
            Err(_) => return Err(named(format!("it did not answer within {} s", LAUNCH.as_secs()))),
        }
        Ok(browser)
    }

    /// Whether it has not ended.
    pub fn lives(&self) -> bool {
        !self.proxy.is_finished() && self.process.lives()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

/// A port for the connections that Chromium makes by itself, and its task: each is closed as it comes.
async fn closing_proxy() -> io::Result<(JoinHandle<()>, u16)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let proxy = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(_) => tracing::debug!("Chromium tried to connect by itself; the connection was closed"),
                // Too many open files: there may be fewer soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok((proxy, port))
}

struct Process {
    child: std::sync::Mutex<Child>,
    folder: Option<TempDir>,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl Process {
    fn begin(program: &Path, environment: &Environment, proxy: u16, sandbox: bool) -> io::Result<(Self, io::PipeReader, io::PipeWriter)> {
        let root = env::temp_dir();
        sweep(&root);
        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir_in(&root)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock()?;
        let (to_them, commands) = io::pipe()?;
        let (answers, from_them) = io::pipe()?;
        // Chromium has its commands on 3 and answers on 4.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "sh"]).arg(program).args(FLAGS);
        command.arg(format!("--proxy-server=http://127.0.0.1:{proxy}"));
        command.arg(format!("--user-agent={PRODUCT}/{}", env!("CARGO_PKG_VERSION")));
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        if !sandbox {
            command.arg("--no-sandbox");
        }
        command
            .arg("about:blank")
            .env_clear()
            .env("PATH", environment("PATH").unwrap_or_else(|| "/usr/bin:/bin".to_owned()))
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .current_dir(folder.path())
            .stdin(to_them)
            .stdout(from_them)
            .stderr(File::create(folder.path().join(SAID))?)
            .process_group(0);
        let child = command.spawn()?;
        Ok((Self { child: std::sync::Mutex::new(child), folder: Some(folder), _lock: lock }, answers, commands))
    }

    /// The last line of its standard error.
    fn said(&self) -> String {
        let text = self.folder.as_ref().and_then(|folder| fs::read(folder.path().join(SAID)).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing").chars().take(300).collect()
    }

    fn lives(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        kill_group(child);
        let until = Instant::now() + END;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        // The others of the group die as fast, but may still be writing.
        if let Some(folder) = self.folder.take() {
            let path = folder.keep();
            while fs::remove_dir_all(&path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound) && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Kills all processes of a group, of which `child` is the first. It was not waited for: its number is still its own.
#[allow(unsafe_code, reason = "the standard library can end one process, not a group")]
fn kill_group(child: &mut Child) {
    // Waited for by `lives`: there may be another process of that number, and the others end with their pipes.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: takes and leaves no memory.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Lets no other process of this user read the memory and the environment of this one, where the credentials are: not even a Chromium without a
/// sandbox that a page took over.
#[allow(unsafe_code, reason = "there is no safe interface")]
fn hide_memory() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes and leaves no memory.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)
    };
}

/// Removes the folders of those that were killed before they could do it.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER));
        let facts = entry.metadata().ok().filter(|facts| ours && facts.is_dir());
        let old = facts.and_then(|facts| facts.modified().ok()?.elapsed().ok()).is_some_and(|age| age > YOUNG);
        let unused = || File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if old && unused() {
            // Another process may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn environment(name: &'static str, value: String) -> Environment {
        Arc::new(move |asked| (asked == name).then(|| value.clone()))
    }

    #[test]
    fn it_is_where_the_environment_says_or_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("chromium");
        fs::write(&program, "").unwrap();
        let named = environment(PROGRAM, program.display().to_string());
        let on_path = environment("PATH", format!("/nowhere:{}", folder.path().display()));
        assert!(find(&named).unwrap_err().contains("where there is no program"));
        assert!(find(&on_path).unwrap_err().contains("install it"));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!((find(&named), find(&on_path)), (Ok(program.clone()), Ok(program)));
    }

    #[tokio::test]
    #[allow(unsafe_code, reason = "there is no safe interface")]
    async fn one_that_does_not_begin_says_why_and_none_could_read_our_memory() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("chromium");
        fs::write(&program, "#!/bin/sh\necho no sandbox here >&2\nenv >&2\nexit 1\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let Err(said) = Browser::launch(&program, &environment("PATH", "/usr/bin:/bin".into())).await else { panic!("it began") };
        assert!(said.contains("Chromium ended at once, after it said: ") && said.contains("LAKEHOUSE_CHROMIUM_SANDBOX=off"), "{said}");
        #[cfg(target_os = "linux")]
        // SAFETY: takes and leaves no memory.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
    }

    #[test]
    fn a_folder_is_swept_when_it_is_old_and_nobody_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            let lock = File::create(path.join(LOCK)).unwrap();
            let old = std::time::SystemTime::now() - YOUNG * 2;
            if name.ends_with('d') {
                File::open(&path).unwrap().set_modified(old).unwrap();
            }
            (path, lock)
        };
        let [old, young, held, other] =
            ["lakehouse-chromium-old", "lakehouse-chromium-new", "lakehouse-chromium-held", "chromium-old"].map(folder);
        held.1.lock().unwrap();
        sweep(root.path());
        assert_eq!([old, young, held, other].map(|(path, _lock)| path.exists()), [false, true, true, true]);
    }
}
