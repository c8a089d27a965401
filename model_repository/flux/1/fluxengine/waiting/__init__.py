"""What happens to a request beside its steps: room, LoRAs and pictures got ready before, answers sent after.

Knows jobs, requests and LoRAs; nothing of batches. Threads of these never touch the device, but to read LoRAs onto it.
"""
