"""MiniVox's voices: Kokoro speaks a few sentences in blended timbres, WORLD makes them a person's."""
