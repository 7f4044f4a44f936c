"""Tests that hurt the server: crashes, cut connections and races, written down and checked afterwards."""
