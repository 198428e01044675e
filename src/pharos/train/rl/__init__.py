"""Reinforcement learning of decoders from rewards: PPO and GRPO, on rollouts of our own."""
