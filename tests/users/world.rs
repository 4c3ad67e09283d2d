//! A password file, a broker that uses it, and logins.

use std::path::PathBuf;

use harness::{Broker, Client, Connect, TemporaryDirectory, hex};

/// Two users, written by mosquitto_passwd 2.0.11: alice with `secret`, ivy with `s` and 500 iterations.
pub(crate) const ALICE: &str = "alice:$7$101$NgCDY8EHqFnJqyfC$1fpYV0ua1btAeQe4XXRlAyzTgC8x7aGq/Qk7E4R3h/YNNXnm7dXUX/kaYPggtfqX0Sc7jycnNCSqdbt269jKUg==\n";
pub(crate) const IVY: &str = "ivy:$7$500$+pP5YjFU4UkILhri$udXYzLWd4Coz4pcGfxszAjNnBZgCJ8wT1pSJYk9x84B1YEHeWvwbfrgkoL7inG0hXixXJnFRFAB/RGKhXUg+Vg==\n";

pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) directory: TemporaryDirectory,
}

/// A broker that knows alice and ivy, with more settings.
pub(crate) fn world(toml: &str) -> World {
    world_of(&format!("{ALICE}{IVY}"), toml)
}

pub(crate) fn world_of(users: &str, toml: &str) -> World {
    let directory = TemporaryDirectory::new("users");
    std::fs::create_dir(directory.path()).expect("the temporary directory is writable");
    let path = directory.path().join("passwd");
    std::fs::write(&path, users).expect("the directory is ours");
    let broker = start(&path, toml);
    World { broker, directory }
}

fn start(path: &std::path::Path, toml: &str) -> Broker {
    let toml = format!(
        "password_file = \"{}\"\nauth_failures_max = 0\n{toml}\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n",
        path.display()
    );
    // The last of a key that is there twice is meant; TOML does not allow that.
    let toml = match toml.matches("auth_failures_max").count() {
        1 => toml,
        _ => toml.replacen("auth_failures_max = 0\n", "", 1),
    };
    Broker::options().toml(&toml).start()
}

impl World {
    pub(crate) fn passwords(&self) -> PathBuf {
        self.directory.path().join("passwd")
    }

    /// Sends CONNECT and reads CONNACK, as hex.
    #[track_caller]
    pub(crate) fn answer(&self, connect: &Connect) -> (Client, String) {
        let mut client = Client::open(&self.broker);
        client.send(&connect.bytes());
        let answer = hex(&client.receive_packet());
        (client, answer)
    }

    #[track_caller]
    pub(crate) fn accepts(&self, connect: &Connect) -> Client {
        let (client, answer) = self.answer(connect);
        let code = answer.split_whitespace().collect::<String>();
        assert!(code.starts_with("20") && &code[6..8] == "00", "{answer}");
        client
    }

    /// CONNACK with "not authorised", then the close.
    #[track_caller]
    pub(crate) fn refuses(&self, connect: &Connect) {
        let (mut client, answer) = self.answer(connect);
        let expected = if connect.is_v5() {
            "20030087 00"
        } else {
            "20020005"
        };
        let plain = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(plain(&answer), plain(expected));
        client.expect_close();
    }
}
