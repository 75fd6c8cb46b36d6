"""Speaking to a server: addresses, requests, answers, questions, waits."""
