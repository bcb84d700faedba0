//! A `redis-server` of a test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server without anything on disk, ended with the test.
pub(super) struct Server {
    pub(super) port: u16,
    arguments: Vec<String>,
    child: Child,
    password: Option<String>,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::with(&[])
    }

    /// With settings, as `["--maxclients", "4"]`.
    pub(super) fn with(settings: &[&str]) -> Self {
        Self::on(free_port(), settings)
    }

    pub(super) fn on(port: u16, settings: &[&str]) -> Self {
        let mut arguments = vec!["--port".into(), port.to_string()];
        let fixed = "--bind 127.0.0.1 --save --appendonly no --loglevel warning";
        for argument in fixed.split(' ') {
            arguments.push(argument.into());
            if argument == "--save" {
                arguments.push(String::new());
            }
        }
        arguments.extend(settings.iter().copied().map(String::from));
        let mut server = Self {
            port,
            child: spawn(&arguments),
            arguments,
            password: None,
        };
        server.wait();
        server
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Uses a password from now on, for the commands of the test.
    pub(super) fn password(&mut self, password: &str) {
        self.command(&["CONFIG", "SET", "requirepass", password]);
        self.password = Some(password.into());
    }

    pub(super) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, with nothing of what it knew.
    pub(super) fn start_again(&mut self) {
        self.child = spawn(&self.arguments);
        self.wait();
    }

    /// The answer to a command, as it was sent.
    pub(super) fn command(&self, words: &[&str]) -> String {
        self.try_command(words).unwrap()
    }

    /// Sends a command after which nothing is answered any more.
    pub(super) fn tell(&self, command: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
        stream.read_exact(&mut [0; 5]).unwrap(); // +OK
    }

    /// A number, of an answer that is one.
    pub(super) fn number(&self, words: &[&str]) -> i64 {
        let answer = self.command(words);
        answer.trim_start_matches(':').trim_end().parse().unwrap()
    }

    /// The keys that there are.
    pub(super) fn keys(&self) -> Vec<String> {
        let answer = self.command(&["KEYS", "*"]);
        let lines = answer.lines().filter(|line| line.starts_with("tg:"));
        lines.map(String::from).collect()
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut all: Vec<&[&str]> = Vec::new();
        let auth;
        if let Some(password) = &self.password {
            auth = ["AUTH", password];
            all.push(&auth);
        }
        all.extend([words, &["QUIT"]]);
        for words in &all {
            let mut text = format!("*{}\r\n", words.len());
            for word in *words {
                text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
            stream.write_all(text.as_bytes())?;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        // What was asked, without what was asked around it.
        let answer = answer.strip_suffix("+OK\r\n").unwrap_or(&answer);
        let answer = match self.password {
            Some(_) => answer.strip_prefix("+OK\r\n").unwrap_or(answer),
            None => answer,
        };
        Ok(answer.to_owned())
    }

    fn wait(&mut self) {
        for _ in 0..500 {
            if self
                .try_command(&["PING"])
                .is_ok_and(|answer| !answer.is_empty())
            {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("redis-server {:?} has ended: {status}", self.arguments);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer on port {}", self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Returns a free port whose cluster bus, 10000 above, is free as well. Redis 6 has no other bus port.
pub(super) fn port_with_bus() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut ports = (0..1_000).map(|_| free_port());
    let port = ports.find(|port| port.checked_add(10_000).is_some_and(is_free));
    port.expect("one of 1000 free ports has a free bus port")
}

fn spawn(arguments: &[String]) -> Child {
    let child = Command::new("redis-server")
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    child.expect(
        "redis-server is missing: run the tests with scripts/test, which installs it, or \
         `apt-get install redis-server`",
    )
}
