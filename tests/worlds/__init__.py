"""What tests share: real scenes, worlds that crash, verified fakes, and what an exception would tell."""
