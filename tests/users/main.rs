//! Users, as a broker process and its clients see them: password files, logins that fail, sessions that belong to somebody, and
//! the real `mosquitto_passwd` on the other side.

mod guessing;
mod listeners;
mod login;
mod mosquitto;
mod passwd;
mod reload;
mod scram;
mod secrets;
mod session;
mod world;
