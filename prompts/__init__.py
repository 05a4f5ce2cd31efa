"""The prompt frontends: unprivileged clients of arbiter's protocol, which arbiter never imports."""
