"""From the bytes of a photo to its feature: decoding, backbones, the engines that run them, and their versions."""
