//! Mosquitto's `http_api`: what it tells, to whom, and what it keeps to itself.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use harness::{Broker, Client, TemporaryDirectory, certs};
use serde_json::Value;

/// A broker on a mosquitto.conf with MQTT on its port and the API on the second one.
fn start(options: &str) -> Broker {
    start_with("allow_anonymous true", options)
}

fn start_with(general: &str, options: &str) -> Broker {
    let text = format!(
        "user root\n{general}\nlistener {{port}} 127.0.0.1\nlistener {{second_port}} 127.0.0.1\nprotocol http_api\n{options}\n"
    );
    let mut broker = Broker::options().mosquitto_conf(&text).start();
    broker.wait_for_log(" running");
    broker
}

fn open(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", broker.second_port)).unwrap();
    stream.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    stream
}

/// Head and body of the answer.
fn ask(broker: &Broker, request: &str) -> (String, String) {
    ask_with(open(broker), request, "")
}

fn ask_with(mut stream: impl Read + Write, request: &str, headers: &str) -> (String, String) {
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    // Who is not let in may find the connection closed already; the answer tells.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

/// The status as it stands in the first line.
fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn version_listeners_and_numbers_are_told() {
    let broker = start("");
    let _client = Client::connect_v4(&broker, "client");
    let (head, body) = ask(&broker, "GET /api/v1/version");
    assert_eq!(status(&head), "200");
    assert!(body.starts_with("0."), "{body}");
    // No page of another site reads what is told here.
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("access-control-allow-origin"), "{head}");
    let told: Value = serde_json::from_str(&ask(&broker, "GET /api/v1/listeners").1).unwrap();
    let expected = serde_json::json!({ "listeners": [
        { "port": broker.port, "protocol": "mqtt", "tls": false, "mtls": false, "allow_anonymous": true },
        { "port": broker.second_port, "protocol": "httpapi", "tls": false, "mtls": false, "allow_anonymous": true },
    ] });
    assert_eq!(told, expected);
    let numbers: Value = serde_json::from_str(&ask(&broker, "GET /api/v1/systree").1).unwrap();
    assert_eq!(numbers["$SYS/broker/clients/connected"], 1);
    assert_eq!(numbers["$SYS/broker/publish/messages/received"], 0);
    assert!(numbers["$SYS/broker/uptime"].is_u64(), "{numbers}");
    assert!(numbers.as_object().unwrap().values().all(Value::is_i64));
    for (request, expected) in [
        ("POST /api/v1/version", "405"),
        ("HEAD /api/v1/version", "405"),
        ("GET /api/v1/clients", "404"),
        ("GET /", "404"),
    ] {
        let (head, _) = ask(&broker, request);
        assert_eq!(status(&head), expected, "{request}: {head}");
    }
}

#[test]
fn t12_files_are_those_of_the_directory_and_no_others() {
    let directory = TemporaryDirectory::new("doors-http");
    let site = directory.path().join("site");
    fs::create_dir_all(site.join("css")).unwrap();
    fs::write(directory.path().join("secret.txt"), "secret").unwrap();
    fs::write(site.join("index.html"), "<p>here</p>").unwrap();
    fs::write(site.join("css/site.css"), "p {}").unwrap();
    fs::write(site.join(".htpasswd"), "secret").unwrap();
    symlink("../secret.txt", site.join("link.txt")).unwrap();
    symlink("..", site.join("up")).unwrap();
    let broker = start(&format!("http_dir {}", site.display()));
    for (path, content_type, expected) in [
        ("/", "text/html", "<p>here</p>"),
        ("/index.html", "text/html", "<p>here</p>"),
        ("/css/site.css", "text/css", "p {}"),
        ("/css/site.css?x=/../", "text/css", "p {}"),
    ] {
        let (head, body) = ask(&broker, &format!("GET {path}"));
        assert!(head.contains(content_type), "{path}: {head}");
        assert_eq!((status(&head), &*body), ("200", expected), "{path}");
    }
    for path in [
        "/../secret.txt",
        "/../../../../../../etc/passwd",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%252fsecret.txt",
        "/css/../../secret.txt",
        "/link.txt",
        "/up/secret.txt",
        "/./../secret.txt",
        "/.htpasswd",
        "/css",
        "/css/",
        "//etc/passwd",
    ] {
        let (head, body) = ask(&broker, &format!("GET {path}"));
        assert!(status(&head).starts_with("40"), "{path}: {head}");
        assert!(
            !body.contains("secret") && !body.contains("root:"),
            "{path}: {body}"
        );
    }
    let huge = format!("X: {}\r\n", "x".repeat(100 * 1024));
    let (head, _) = ask_with(open(&broker), "GET /", &huge);
    assert!(head.is_empty() || status(&head) == "431", "{head}");
    // Whoever says nothing takes a place for a few seconds, and nobody else's.
    let _silent: Vec<_> = (0..32).map(|_| open(&broker)).collect();
    assert_eq!(status(&ask(&broker, "GET /").0), "200");
}

#[test]
fn users_and_rules_hold_for_the_api_as_for_clients() {
    let directory = TemporaryDirectory::new("doors-http-users");
    fs::create_dir_all(directory.path()).unwrap();
    let (users, rules) = (directory.path().join("users"), directory.path().join("acl"));
    for (user, flag) in [("alice", "-c"), ("bob", "-H")] {
        let mut passwd = Command::new(harness::binary());
        passwd.args(["passwd", flag]);
        if flag == "-H" {
            passwd.arg("sha512-pbkdf2");
        }
        let done = passwd
            .arg("-b")
            .arg(&users)
            .args([user, "geheim"])
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let text = "user alice\ntopic read /api/v1/#\nuser bob\ntopic read /api/v1/version\n";
    fs::write(&rules, text).unwrap();
    let general = format!(
        "password_file {}\nacl_file {}",
        users.display(),
        rules.display()
    );
    let mut broker = start_with(&general, "");
    let version = "GET /api/v1/version";
    let listeners = "GET /api/v1/listeners";
    // alice:geheim, bob:geheim, alice:falsch, mallory:geheim
    for (credentials, request, expected) in [
        ("YWxpY2U6Z2VoZWlt", listeners, "200"),
        ("Ym9iOmdlaGVpbQ==", version, "200"),
        ("Ym9iOmdlaGVpbQ==", listeners, "401"),
        ("YWxpY2U6ZmFsc2No", version, "401"),
        ("bWFsbG9yeTpnZWhlaW0=", version, "401"),
        ("!", version, "401"),
    ] {
        let header = format!("Authorization: Basic {credentials}\r\n");
        let (head, body) = ask_with(open(&broker), request, &header);
        assert_eq!(
            status(&head),
            expected,
            "{credentials} {request}: {head} {body}"
        );
    }
    let (head, body) = ask(&broker, version);
    assert_eq!(status(&head), "401");
    assert_eq!(body, "Not authorised\n");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("www-authenticate: basic realm="), "{head}");
    broker.wait_for_log("(user 'mallory': unknown user)");
    broker.wait_for_log("(user none: no user name)");
    let log = broker.log();
    assert!(!log.contains("geheim") && !log.contains("falsch"), "{log}");
    // What a reload brings holds from the next request on.
    fs::write(
        &rules,
        "user bob\ntopic read /api/v1/listeners\nuser alice\n",
    )
    .unwrap();
    let process_id = i32::try_from(broker.process_id().unwrap()).unwrap();
    let process_id = rustix::process::Pid::from_raw(process_id).unwrap();
    rustix::process::kill_process(process_id, rustix::process::Signal::HUP).unwrap();
    broker.wait_for_log("Config reloaded.");
    for (credentials, expected) in [("Ym9iOmdlaGVpbQ==", "200"), ("YWxpY2U6Z2VoZWlt", "401")] {
        let header = format!("Authorization: Basic {credentials}\r\n");
        let (head, _) = ask_with(open(&broker), listeners, &header);
        assert_eq!(status(&head), expected, "{credentials}");
    }
}

#[test]
fn whoever_guesses_over_http_is_refused_unseen_as_over_mqtt() {
    let directory = TemporaryDirectory::new("doors-http-guess");
    fs::create_dir_all(directory.path()).unwrap();
    let users = directory.path().join("users");
    let done = Command::new(harness::binary())
        .args(["passwd", "-c", "-b"])
        .arg(&users)
        .args(["alice", "geheim"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut broker = start_with(&format!("password_file {}", users.display()), "");
    for _ in 0..7 {
        let header = "Authorization: Basic YWxpY2U6ZmFsc2No\r\n";
        let (head, _) = ask_with(open(&broker), "GET /api/v1/version", header);
        assert_eq!(status(&head), "401");
    }
    broker.wait_for_log("(user 'alice': too many failures)");
}

#[test]
fn t4_an_api_with_certificates_asks_for_them() {
    let directory = TemporaryDirectory::new("doors-http-tls");
    for command in [
        &["init"][..],
        &["server", "localhost"],
        &["device", "gauge-7"],
    ] {
        let done = Command::new(certs())
            .args(command)
            .args(["--dir", directory.text()])
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let path = |name: &str| directory.path().join(name).display().to_string();
    let broker = start(&format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        path("ca.crt"),
        path("servers/localhost.crt"),
        path("servers/localhost.key"),
    ));
    let ask_over_tls = |arguments: &[&str]| {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect"])
            .arg(format!("127.0.0.1:{}", broker.second_port))
            .args(["-CAfile", &path("ca.crt")])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let request = b"GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _ = child.stdin.as_mut().unwrap().write_all(request);
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    let certificate = path("devices/gauge-7.crt");
    let key = path("devices/gauge-7.key");
    let let_in = ask_over_tls(&["-cert", &certificate, "-key", &key]);
    assert!(let_in.starts_with("HTTP/1.1 200 "), "{let_in}");
    let refused = ask_over_tls(&[]);
    assert!(!refused.contains("HTTP/1.1"), "{refused}");
    let (head, _) = ask(&broker, "GET /api/v1/version");
    assert!(!head.contains("HTTP/1.1"), "{head}");
}

#[test]
fn the_api_is_served_on_a_unix_socket_and_in_a_nightjar_toml() {
    let directory = TemporaryDirectory::new("doors-http-unix");
    fs::create_dir_all(directory.path()).unwrap();
    let path = directory.path().join("api.sock");
    let text = format!(
        "allow_anonymous = true\nhttp_listener = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n\
         [[listeners]]\npath = \"{}\"\nprotocol = \"http_api\"\nconnections_max = 1\n",
        path.display()
    );
    let mut broker = Broker::options().toml(&text).start();
    broker.wait_for_log(" running");
    let request = "GET /api/v1/version";
    let first = UnixStream::connect(&path).unwrap();
    let (head, _) = ask_with(&first, request, "");
    assert_eq!(status(&head), "200");
    drop(first);
    // connections_max holds: one too many is closed unread, once it is noticed that the first one is gone.
    harness::wait_until("one has the place", harness::PATIENCE, || {
        let taken = UnixStream::connect(&path).unwrap();
        let (head, _) = ask_with(UnixStream::connect(&path).unwrap(), request, "");
        head.is_empty() && status(&ask_with(&taken, request, "").0) == "200"
    });
}
